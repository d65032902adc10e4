"""What of environments is state, what is not, what cannot be copied, and what is refused."""

from __future__ import annotations

import copy
import functools
import os
import random
import signal
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from env_stacks import Sealed, begun, difference, dummy, limited, wander
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.wrappers import FrameStackObservation, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_ppo_plus.envs import MujocoVecEnv, ProcessVecEnv, TensorVecNormalize
from sb3_ppo_plus.envs.state import capture_env, restore_env
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.files.tree import dump_tree, load_tree

Place = namedtuple("Place", "x y")


class Colour(Enum):
    RED = 1
    BLUE = 2


class Sides(Flag):
    LEFT = auto()
    RIGHT = auto()


@dataclass(frozen=True)
class Fixed:
    numbers: tuple[int, ...]


@dataclass
class Slotted:
    __slots__ = ("left", "right")
    left: int
    right: list[int]


class Node:
    def __init__(self, value: int) -> None:
        self.value = value
        self.me = self
        self.next: Node | None = None


class Bag(gym.Env):
    """Holds what a test puts into it."""

    observation_space = spaces.Box(-1, 1, (1,))

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(2)

    def helper(self) -> str:
        return "helped"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, False, {}


class Feeling(MujocoEnv):
    """A robot that looks at contacts and inertia before it steps, and has a sense of its own for time."""

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}

    def __init__(self) -> None:
        super().__init__("walker2d.xml", 4, spaces.Box(-np.inf, np.inf, (1,), np.float64))
        self.metadata = {**self.metadata, "render_fps": int(np.round(1.0 / self.dt))}
        self.joint_speeds = self.data.qvel  # a view of the engine's memory

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        contacts = self.data.ncon
        felt = sum(float(self.data.contact[i].dist) for i in range(contacts)) + float(np.sum(self.data.M))
        self.do_simulation(action, self.frame_skip)
        observation = np.array([felt + self.joint_speeds.sum()])
        return observation, felt, False, False, {"contacts": contacts}

    def reset_model(self) -> np.ndarray:
        noise = self.np_random.normal(size=self.model.nq) * 0.01
        self.set_state(self.init_qpos + noise, self.init_qvel)
        return np.array([self.joint_speeds.sum()])


def bag(**things: Any) -> tuple[VecEnv, Bag]:
    env = Bag()
    vars(env).update(things)
    return DummyVecEnv([lambda: env]), env


def through_a_file(tree: Any) -> Any:
    return load_tree(*dump_tree(tree))


def moved(env: VecEnv, other: VecEnv) -> None:
    state = capture_env(env)
    assert state.inexact == []
    restore_env(other, through_a_file(state.tree))


def carried(thing: Any, instead: Any = None) -> Any:
    """What an environment holds that had something else before."""
    one, _ = bag(thing=thing)
    other, held = bag(thing=instead)
    moved(one, other)
    return held.thing  # type: ignore[attr-defined]


PLAIN = [
    *(None, True, -3, 10**40, 0.1, float("inf"), "text", b"bytes", (1, "a"), [1, [2, None]], [0.5] * 20, [True] * 9),
    *([2**70] * 9, [np.float32(0.1)] * 9, [1, 2.0] * 9, list(range(20)), {"a": {1: 2}, "b": []}, {(1, 2): {3: "c"}}),
    *(np.arange(6.0).reshape(2, 3), np.array(3), np.array([], np.int8), np.array(["ab", "c"]), np.array([b"S", b"F"])),
    *(
        np.array([1, "a", None], dtype=object),
        np.float32(0.1),
        np.str_("a"),
        np.bool_(True),
        np.datetime64("2020-01-01"),
    ),
    *(deque([1, 2], maxlen=2), OrderedDict(b=1, a=2), Counter("aab"), {3, 1, 2}, frozenset({1}), bytearray(b"ab")),
    *(Colour.BLUE, {Colour.RED: 1}, Sides.LEFT | Sides.RIGHT, Place(1, [2]), Fixed((1, 2)), float("-0.0")),
    *(th.arange(3), th.tensor(0.5, dtype=th.bfloat16)),
]


@pytest.mark.parametrize("thing", PLAIN, ids=repr)
def test_plain_things_come_back_as_they_were(thing: Any) -> None:
    found = carried(thing)
    assert difference([thing], [found]) == ""
    assert type(found) is type(thing)
    if isinstance(thing, deque):
        assert found.maxlen == thing.maxlen


def test_a_default_of_a_dict_stays() -> None:
    found = carried(defaultdict(list, {1: [2]}))
    assert found[1] == [2] and found[7] == []


def test_arrays_keep_their_order_in_memory() -> None:
    array = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)
    found = carried(array)
    assert (found == array).all() and found.strides == array.strides


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_generators_of_numpy_go_on(kind: Any) -> None:
    generator = np.random.Generator(kind(4))
    generator.integers(5, dtype=np.uint8)  # leaves half of a number behind
    found = carried(generator, np.random.default_rng(1))
    assert (found.integers(100, size=9, dtype=np.uint32) == generator.integers(100, size=9, dtype=np.uint32)).all()


@pytest.mark.parametrize("make", [random.Random, np.random.RandomState])
def test_older_generators_go_on(make: Any) -> None:
    generator = make(4)
    normal = "gauss" if make is random.Random else "normal"
    getattr(generator, normal)(0, 1)  # leaves a second number behind
    found = carried(generator, make(1))
    assert [getattr(found, normal)(0, 1) for _ in range(3)] == [getattr(generator, normal)(0, 1) for _ in range(3)]


def test_generators_of_torch_go_on() -> None:
    generator = th.Generator().manual_seed(3)
    th.rand(5, generator=generator)
    found = carried(generator, th.Generator())
    assert th.equal(th.rand(5, generator=found), th.rand(5, generator=generator))


def test_spaces_draw_on() -> None:
    space = spaces.Dict({"a": spaces.Discrete(100), "b": spaces.Tuple([spaces.Box(0, 1, (2,))])}, seed=3)
    space.sample()
    found = carried(space, copy.deepcopy(space))
    assert difference(found.sample(), space.sample()) == ""


def test_a_space_that_was_never_used_stays_so() -> None:
    assert carried(spaces.Discrete(5), spaces.Discrete(5, seed=3))._np_random is None


def test_objects_come_back_with_what_they_share() -> None:
    shared = [1, 2]
    first, second = Node(1), Node(2)
    first.next, second.next = second, first
    one, _ = bag(a=shared, b={"same": shared}, nodes=[first, second], array=np.zeros(2))
    other, held = bag(nodes=[Node(0), Node(0)])
    vars(one.envs[0])["again"] = one.envs[0].array  # type: ignore[attr-defined]
    moved(one, other)
    found: Any = held
    assert found.a is found.b["same"] and found.array is found.again
    assert found.nodes[0].next is found.nodes[1] and found.nodes[1].next is found.nodes[0]
    assert found.nodes[0].me is found.nodes[0] and [node.value for node in found.nodes] == [1, 2]


def test_what_was_one_object_here_can_be_two_there() -> None:
    generator = np.random.default_rng(0)
    one, _ = bag(a=np.random.default_rng(1), b=np.random.default_rng(2))
    other, held = bag(a=generator, b=generator)
    moved(one, other)
    found: Any = held
    assert found.a is not found.b
    assert (found.a.random(), found.b.random()) == (
        np.random.default_rng(1).random(),
        np.random.default_rng(2).random(),
    )


def test_slots_count() -> None:
    found = carried(Slotted(1, [2]))
    assert (found.left, found.right) == (1, [2])


def test_methods_belong_to_the_new_objects() -> None:
    node = random.Random(5)
    one, env = bag(source=node, draw=node.random)
    env.call = env.helper  # type: ignore[attr-defined]
    other_source = random.Random(1)
    other, held = bag(source=other_source, draw=other_source.random)
    moved(one, other)
    found: Any = held
    assert found.call() == "helped" and found.call.__self__ is found
    assert found.draw.__self__ is found.source and found.draw() == node.random()


def test_attributes_that_were_not_there_go() -> None:
    other, held = bag(late=1)
    moved(bag()[0], other)
    assert not hasattr(held, "late")


@pytest.mark.parametrize(("name", "value"), [("clock", 7), ("window", [3]), ("isopen", False), ("logger", 2)])
def test_names_of_what_is_mostly_for_show_hide_no_state(name: str, value: Any) -> None:
    other, held = bag(**{name: None})
    moved(bag(**{name: value})[0], other)
    assert getattr(held, name) == value


def _drawing() -> Callable[[], float]:
    generator = np.random.default_rng(0)
    return lambda: generator.random()


def _spawned() -> np.random.Generator:
    generator = np.random.default_rng(0)
    generator.spawn(1)
    return generator


def _shrunk() -> set[int]:
    numbers = set(range(1000))
    for number in range(3, 1000):
        numbers.discard(number)
    return numbers


def _with_a_view() -> dict[str, Any]:
    whole = np.zeros(4)
    return {"thing": whole, "part": whole[:2]}


NOT_PLAIN: list[tuple[dict[str, Any], str]] = [
    ({"thing": threading.Lock()}, "thing (a lock)"),
    ({"thing": iter([1])}, "thing (a list_iterator)"),
    ({"thing": {"deep": [object()]}}, "thing (a object)"),
    ({"thing": th.nn.Linear(1, 1)}, "thing ("),
    ({"thing": th.zeros(1, requires_grad=True)}, "a tensor with a gradient"),
    ({"thing": _drawing()}, "a function with a random generator in it"),
    ({"thing": functools.partial(print, np.random.default_rng(0))}, "a function with a random generator in it"),
    ({"thing": _spawned()}, "a generator that has spawned others"),
    ({"thing": _shrunk()}, "a set whose order cannot be put back"),
    ({"thing": np.zeros(2, "i4,f8")}, "thing (an array of"),
    ({"thing": np.ma.masked_array([1])}, "thing (a MaskedArray)"),
    (_with_a_view(), "part (a view of an array that is kept elsewhere, too)"),
]


@pytest.mark.parametrize(("things", "words"), NOT_PLAIN)
def test_what_cannot_be_copied_is_named(things: dict[str, Any], words: str) -> None:
    env, held = bag(**things)
    (line,) = capture_env(env).inexact
    assert line.startswith("Bag keeps") and words in line and line.endswith("give it get_state() and set_state(state)")
    restore_env(env, capture_env(env).tree)
    assert vars(held)["thing"] is not None  # what was not copied is left alone


def test_many_alike_are_one_line() -> None:
    def locked() -> gym.Env:
        env = Bag()
        vars(env)["thing"] = threading.Lock()
        return env

    (line,) = capture_env(DummyVecEnv([locked] * 3)).inexact
    assert line.endswith("(3 times)")


def test_box2d_is_named() -> None:
    world = type("b2World", (), {"__module__": "Box2D.Box2D"})()
    (line,) = capture_env(bag(world=world)[0]).inexact
    assert line == "Bag (Box2D) keeps its world in C++: give it get_state() and set_state(state)"


class Secret(Sealed):
    def get_state(self) -> dict[str, Any]:
        return {"numbers": self._numbers}


def test_a_state_of_its_own_has_to_be_plain() -> None:
    (line,) = capture_env(DummyVecEnv([Secret])).inexact
    assert line.startswith("Secret has a get_state() that gives a range_iterator")


@pytest.mark.slow
def test_workers_of_sb3_are_asked_when_that_is_enough() -> None:
    env, other = SubprocVecEnv([Sealed, Sealed]), SubprocVecEnv([Sealed, Sealed])
    wrapped = SubprocVecEnv([lambda: TimeLimit(Sealed(), 9)])
    robot = SubprocVecEnv([lambda: gym.make("InvertedPendulum-v5").unwrapped])
    try:
        for venv in (env, other):
            venv.seed(1)
            venv.action_space.seed(1)
            venv.reset()
        wander(env, 5)
        moved(env, other)
        assert difference(wander(env, 30), wander(other, 30)) == ""
        for hidden in (wrapped, robot):
            assert [line for line in capture_env(hidden).inexact if "use ProcessVecEnv" in line]
    finally:
        for venv in (env, other, wrapped, robot):
            venv.close()


def test_a_set_state_of_mujoco_is_not_that_of_the_protocol() -> None:
    robot = gym.make("InvertedPendulum-v5").unwrapped
    type_with_get = type("Robot", (type(robot),), {"get_state": lambda self: 1 / 0})
    assert capture_env(DummyVecEnv([type_with_get])).inexact == []


def test_a_randomized_model_comes_along() -> None:
    env, other = dummy("Hopper-v5"), dummy("Hopper-v5")
    env.seed(0)
    env.action_space.seed(0)
    env.reset()
    env.envs[0].unwrapped.model.body_mass[1] *= 1.5  # type: ignore[attr-defined]
    env.envs[1].unwrapped.model.opt.gravity[2] = -3.0  # type: ignore[attr-defined]
    moved(env, other)
    assert difference(wander(env, 40), wander(other, 40)) == ""


def test_a_robot_may_read_before_it_steps_what_the_last_step_left() -> None:
    def robots() -> DummyVecEnv:
        return DummyVecEnv([lambda: Monitor(TimeLimit(Feeling(), 60)) for _ in range(2)])

    env, other = robots(), robots()
    env.seed(0)
    env.action_space.seed(0)
    env.reset()
    while not all(robot.unwrapped.data.ncon for robot in env.envs):  # type: ignore[attr-defined]
        wander(env, 1)
    moved(env, other)
    seen = wander(env, 100)
    assert difference(seen, wander(other, 100)) == ""
    assert seen[0][4][0]["contacts"] > 0


def test_switches_of_a_normalizer_come_along() -> None:
    env, other = (TensorVecNormalize(MujocoVecEnv("Hopper-v5", 2)) for _ in range(2))
    env.seed(0)
    env.action_space.seed(0)
    env.reset()
    wander(env, 5)
    env.training = env.norm_reward = False
    moved(env, other)
    assert not other.training and not other.norm_reward
    assert (env.get_original_obs() == other.get_original_obs()).all()
    assert difference(wander(env, 30), wander(other, 30)) == ""


@pytest.mark.slow
def test_an_environment_that_began_anew_still_tells_so() -> None:
    env, other = (ProcessVecEnv([Sealed, Sealed], n_workers=2) for _ in range(2))
    try:
        env.seed(0)
        env.action_space.seed(0)
        env.reset()
        os.kill(env.pids[1], signal.SIGKILL)
        state = capture_env(env)  # finds it dead, and starts it again
        restore_env(other, through_a_file(state.tree))
        seen = wander(env, 20)
        assert seen[0][3].tolist() == [False, True]
        assert difference(seen, wander(other, 20)) == ""
    finally:
        env.close()
        other.close()


# ------------------------------------------------ what is refused

REFUSED: list[tuple[Callable[[], VecEnv], str]] = [
    (lambda: VecNormalize(dummy("Pendulum-v1")), "the state is of DummyVecEnv and the environments are DummyVecEnv in"),
    (lambda: dummy("Pendulum-v1", 3), "the state is of 2 environments and there are 3"),
    (lambda: dummy("CartPole-v1"), "the state is of Pendulum-v1 in .* and the environment is CartPole-v1 in"),
    (lambda: DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2), "TimeLimit in Monitor and the environment is"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_a_state_of_others_is_refused(make: Callable[[], VecEnv], message: str) -> None:
    tree = capture_env(begun("Pendulum-v1")).tree
    other = make()
    before = capture_env(other)
    with pytest.raises(InvalidArgument, match=message):
        restore_env(other, tree)
    assert dump_tree(_untimed(capture_env(other).tree)) == dump_tree(_untimed(before.tree))


def _untimed(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _untimed(value) for key, value in tree.items() if key != "elapsed"}
    return [_untimed(value) for value in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize("tree", [{}, {"layers": 3}, {"layers": [{}]}, {"layers": None}, []])
def test_what_is_no_state_is_refused(tree: Any) -> None:
    with pytest.raises(InvalidArgument, match="capture_env"):
        restore_env(dummy("CartPole-v1"), tree)


def test_another_robot_is_refused() -> None:
    tree = through_a_file(capture_env(DummyVecEnv([lambda: limited("Hopper-v5")])).tree)
    for layer in tree["layers"][0]["envs"][0]:
        layer["layer"] = layer["layer"].replace("Hopper", "Walker2d")
    with pytest.raises(InvalidArgument, match="another model than that of Walker2dEnv"):
        restore_env(DummyVecEnv([lambda: limited("Walker2d-v5")]), tree)


def test_other_spaces_are_refused() -> None:
    def stacked(n: int) -> VecEnv:
        return VecFrameStack(DummyVecEnv([lambda: FrameStackObservation(gym.make("CartPole-v1"), 2)]), n)

    with pytest.raises(InvalidArgument, match="observation_space is a Box of shape"):
        restore_env(stacked(4), capture_env(stacked(3)).tree)


def test_another_function_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"Bag\.thing is .*_spawned and is .*_shrunk here"):
        restore_env(bag(thing=_shrunk)[0], capture_env(bag(thing=_spawned)[0]).tree)


def test_a_class_that_no_environment_has_is_refused() -> None:
    tree = through_a_file(capture_env(bag(thing=Node(1))[0]).tree)
    encoded = tree["layers"][0]["envs"][0][0]["attributes"]["thing"]
    encoded["class"] = "subprocess:Popen"
    with pytest.raises(InvalidArgument, match="holds a Popen, of which there is none here"):
        restore_env(bag(thing=None)[0], tree)
