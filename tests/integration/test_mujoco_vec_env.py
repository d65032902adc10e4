"""MujocoVecEnv beyond parity: divergence, threads, own robots, pictures, training, and the mistakes of users."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

pytest.importorskip("mujoco.batch")

import mujoco
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_ppo_plus import PPOPlus, rollout
from sb3_ppo_plus.actors import PolicyActor
from sb3_ppo_plus.envs import MujocoTask, MujocoVecEnv, Outcome
from sb3_ppo_plus.envs.tasks.registry import TASKS, task_class
from sb3_ppo_plus.errors import InvalidArgument

# One task for each engine: mujoco.Batch, and one MjData per simulation.
ENGINES = ("Hopper-v5", "Ant-v5")

CART = """
<mujoco>
  <worldbody>
    <body name="cart"><joint name="slide" type="slide" axis="1 0 0"/><geom name="box" size="0.1" mass="1"/></body>
  </worldbody>
  <actuator><motor name="push" joint="slide" ctrlrange="-1 1"/></actuator>
  <sensor><jointpos joint="slide"/><jointvel joint="slide"/></sensor>
</mujoco>
"""


class Cart(MujocoTask):
    """Be far to the right; observations are a view of the engine's memory, on purpose."""

    needs = ("sensordata",)

    def __init__(self, model: Any = CART, **options: Any) -> None:
        super().__init__(model, **{"frame_skip": 5, "max_episode_steps": 6, **options})

    def observe(self, data: Any) -> th.Tensor:
        return data.sensordata

    def evaluate(self, data: Any, action: th.Tensor, before: Any, after: Any) -> Outcome:
        return Outcome(data.sensordata[:, 0], None, {"position": data.sensordata[:, 0]})


def make(task: Any = "Hopper-v5", n_envs: int = 4, **options: Any) -> MujocoVecEnv:
    env = MujocoVecEnv(task, n_envs=n_envs, **{"seed": 0, "n_threads": 2, **options})
    env.reset()
    return env


def actions(env: MujocoVecEnv, steps: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    space = env.action_space
    return [rng.uniform(space.low, space.high, (env.num_envs, *space.shape)).astype(np.float32) for _ in range(steps)]


def poison(env: MujocoVecEnv, index: int, value: float) -> None:
    """Give one simulation an impossible velocity."""
    physics = env.physics
    state = physics.get_state()
    size = mujoco.mj_stateSize(physics.model, int(mujoco.mjtState.mjSTATE_TIME) | int(mujoco.mjtState.mjSTATE_QPOS))
    state[index, size] = value
    physics.set_state(state)


# ------------------------------------------------ divergence


@pytest.mark.parametrize("task", ENGINES)
def test_a_divergence_in_the_first_step_and_a_command_that_is_no_number_are_noticed(task: str) -> None:
    env = make(task)
    poison(env, 1, np.inf)
    action = actions(env, 1)[0]
    assert [info["diverged"] for info in env.step(action)[3]] == [False, True, False, False]
    action[2] = np.nan
    assert [info["diverged"] for info in env.step(action)[3]] == [False, False, True, False]
    assert env.num_diverged == 2


@pytest.mark.parametrize("task", ENGINES)
@pytest.mark.parametrize("value", [np.nan, 1e30, np.inf])
def test_a_diverged_simulation_ends_alone_and_is_counted(task: str, value: float) -> None:
    env, twin = make(task), make(task)
    first, second = actions(env, 2)
    seen = env.step(first)[0]
    twin.step(first)
    poison(env, 2, value)
    obs, rewards, dones, infos = env.step(second)
    expected, expected_rewards, expected_dones, _ = twin.step(second)
    assert dones[2]
    assert infos[2]["diverged"] is True
    assert infos[2]["TimeLimit.truncated"] is False
    assert rewards[2] == 0.0
    assert infos[2]["episode"]["l"] == 2
    # The last thing seen before it left the numbers, and a fresh start.
    np.testing.assert_array_equal(infos[2]["terminal_observation"], seen[2])
    assert np.isfinite(obs).all()
    assert env.num_diverged == 1
    others = [0, 1, 3]
    np.testing.assert_array_equal(obs[others], expected[others])
    np.testing.assert_array_equal(rewards[others], expected_rewards[others])
    np.testing.assert_array_equal(dones[others], expected_dones[others])
    assert not any(infos[index]["diverged"] for index in others)
    assert "diverged" not in env.step(first)[3][0]


@pytest.mark.parametrize("needs", [("sensordata",), ("sensordata", "cfrc_ext")], ids=["batch", "datas"])
def test_a_simulation_in_which_mujoco_raises_ends_alone(needs: tuple[str, ...]) -> None:
    # Twelve balls apart need little memory; the contacts of a heap need more than 10 KB, and MuJoCo raises an error.
    balls = "".join(f'<body pos="{2 * i} 5 0"><freejoint/><geom size="0.3"/></body>' for i in range(12))
    tight = '<mujoco><option gravity="0 0 0"/><size memory="10K"/>'
    task = Cart(CART.replace("<mujoco>", tight).replace("</worldbody>", f"{balls}</worldbody>"))
    task.needs = needs
    env = make(task, n_envs=2)
    state = env.physics.get_state()
    start = mujoco.mj_stateSize(env.physics.model, int(mujoco.mjtState.mjSTATE_TIME)) + 1
    for ball in range(12):
        state[1, start + 7 * ball : start + 7 * ball + 3] = [0.01 * ball, 5.0, 0.0]
    env.physics.set_state(state)
    _, rewards, dones, infos = env.step(np.ones((2, 1), np.float32))
    assert list(dones) == [False, True]
    assert infos[1]["diverged"] is True
    assert rewards[1] == 0.0
    # It goes on from its next start.
    _, _, dones, _ = env.step(np.ones((2, 1), np.float32))
    assert not dones.any()


def test_starts_that_cannot_be_simulated_are_an_error_that_says_where_to_look() -> None:
    class Broken(Cart):
        def initial_state(self, draw: Any) -> tuple[th.Tensor, th.Tensor]:
            return draw.uniform(0, 1, 1) * th.nan, draw.uniform(0, 1, 1)

    env = MujocoVecEnv(Broken(), n_envs=2)
    with pytest.raises(RuntimeError, match="initial_state"):
        env.reset()


# ------------------------------------------------ engines and threads


@pytest.mark.parametrize("task", ENGINES)
def test_any_number_of_threads_gives_the_same_bits(task: str) -> None:
    envs = [make(task, n_envs=5, n_threads=threads) for threads in (1, 2, 5)]
    for action in actions(envs[0], 60):
        first, *others = [env.step(action) for env in envs]
        for other in others:
            np.testing.assert_array_equal(first[0], other[0])
            np.testing.assert_array_equal(first[1], other[1])


def test_both_engines_give_the_same_bits() -> None:
    class HopperOnDatas(type(make().task)):  # type: ignore[misc]
        needs = ("cacc",)  # something only mj_rnePostConstraint computes

    batch, datas = make(), make(HopperOnDatas())
    assert type(batch.physics) is not type(datas.physics)
    for action in actions(batch, 80):
        for one, other in zip(batch.step(action)[:3], datas.step(action)[:3], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_gives_the_same_numbers_in_arrays_and_in_tensors(name: str) -> None:
    in_tensors = type("InTensors", (task_class(name),), {"arrays": False})()
    one, other = make(name, max_episode_steps=12), make(in_tensors, max_episode_steps=12)
    assert np.array_equal(one.reset(), other.reset())
    for action in actions(one, 30):
        first, second = one.step(action), other.step(action)
        # Sines, and sums of float32, are rounded differently.
        np.testing.assert_allclose(first[0], second[0], rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(first[1], second[1], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(first[2], second[2])
        assert [list(info) for info in first[3]] == [list(info) for info in second[3]]


# ------------------------------------------------ a robot of one's own


def test_an_observation_that_is_a_view_survives_the_reset() -> None:
    env = make(Cart(), n_envs=2)
    for action in actions(env, 6):
        before = env.single_env(0).data.qpos[0]
        _, _, dones, infos = env.step(np.ones_like(action))
    assert dones.all()
    # Pushed to the right for six steps, from near 0; the new episode starts near 0 again.
    assert infos[0]["terminal_observation"][0] > before > 0.0
    assert abs(env.single_env(0).data.qpos[0]) <= 0.01


def test_a_model_may_be_a_path_xml_text_or_a_spec(tmp_path: Path) -> None:
    file = tmp_path / "cart.xml"
    file.write_text(CART)
    spec = mujoco.MjSpec.from_string(CART)
    starts = [make(Cart(model), n_envs=2).reset() for model in (CART, file, str(file), spec)]
    assert all(np.array_equal(starts[0], start) for start in starts[1:])


def test_gymnasiums_own_files_are_found_by_their_bare_names_from_anywhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert make("Walker2d-v5", xml_file="walker2d.xml").observation_space.shape == (17,)


# ------------------------------------------------ pictures


def test_pictures_show_each_robot_where_it_is() -> None:
    env = make("InvertedPendulum-v5", n_envs=2, render_mode="rgb_array", width=64, height=48)
    try:
        images = env.get_images()
    except Exception as error:
        pytest.skip(f"no renderer here: {type(error).__name__}")
    assert [image.shape for image in images] == [(48, 64, 3)] * 2
    for _ in range(4):
        env.step(np.array([[3.0], [-3.0]], np.float32))
    moved = env.get_images()
    assert not np.array_equal(moved[0], moved[1])
    assert not np.array_equal(images[0], moved[0])
    assert env.render().shape == (96, 64, 3)
    env.close()
    env.close()


def test_a_randomized_robot_is_drawn_as_it_is() -> None:
    pictures = []
    for size in (1.0, 4.0):
        env = make(
            "InvertedPendulum-v5",
            n_envs=1,
            render_mode="rgb_array",
            width=64,
            height=48,
            randomization={"geom_size": {"scale": [size, size], "names": ["cart"]}},
        )
        try:
            pictures.append(env.get_images()[0])
        except Exception as error:
            pytest.skip(f"no renderer here: {type(error).__name__}")
        env.close()
    assert not np.array_equal(pictures[0], pictures[1])


def test_without_a_render_mode_there_is_no_picture() -> None:
    assert make(n_envs=2).get_images() == [None, None]


# ------------------------------------------------ training


@pytest.mark.parametrize("algorithm", [PPO, PPOPlus])
@pytest.mark.parametrize("task", ENGINES)
def test_ppo_trains_on_it_and_logs_episodes(algorithm: Any, task: str) -> None:
    model = algorithm("MlpPolicy", make(task, max_episode_steps=20), n_steps=32, batch_size=64, n_epochs=2, seed=0)
    model.learn(256)
    assert model.num_timesteps == 256
    assert len(model.ep_info_buffer) > 0
    returns, lengths = evaluate_policy(model, make(task, max_episode_steps=20), 4, return_episode_rewards=True)
    assert len(returns) == 4
    assert max(lengths) <= 20


def test_ppo_plus_that_asks_the_policy_for_actions_equals_sb3_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Actions computed in NumPy are rounded otherwise, and a robot's motion makes much of little.
    monkeypatch.setattr(rollout, "make_actor", lambda policy, n_envs: PolicyActor(policy))
    parameters = []
    for algorithm in (PPO, PPOPlus):
        model = algorithm("MlpPolicy", make("HalfCheetah-v5"), n_steps=32, batch_size=64, n_epochs=2, seed=3).learn(256)
        parameters.append(model.policy.state_dict())
    assert all(th.equal(parameters[0][name], parameters[1][name]) for name in parameters[0])


def test_a_model_trained_here_loads_with_gymnasiums_own_environment(tmp_path: Path) -> None:
    import gymnasium as gym

    model = PPO("MlpPolicy", make("Hopper-v5"), n_steps=16, batch_size=16, n_epochs=1).learn(64)
    model.save(tmp_path / "hopper")
    loaded = PPO.load(tmp_path / "hopper", env=gym.make("Hopper-v5"))
    assert loaded.learn(16).num_timesteps > 0


def test_what_is_fixed_at_construction_cannot_be_set_later() -> None:
    env = make(n_envs=2)
    for name in ("max_episode_steps", "render_mode", "num_envs", "observation_space"):
        with pytest.raises(InvalidArgument, match=f"{name} is fixed"):
            env.set_attr(name, 3)
    env.set_attr("note", "mine")
    assert env.get_attr("note") == ["mine", "mine"]


def test_unseeded_environments_differ_in_their_noise_too() -> None:
    seen = [MujocoVecEnv("Hopper-v5", observation_noise=1.0, reset_noise_scale=0.0).reset() for _ in range(2)]
    assert not np.array_equal(seen[0], seen[1])


def test_a_window_without_a_screen_is_refused_at_once(monkeypatch: Any) -> None:
    monkeypatch.setattr("sb3_ppo_plus.envs.mujoco.rendering.screen_answers", lambda: False)
    with pytest.raises(InvalidArgument, match="no screen answers"):
        MujocoVecEnv("Hopper-v5", render_mode="human")


def test_the_callers_action_array_may_be_reused_and_reversed() -> None:
    env, twin = make(), make()
    action = actions(env, 1)[0]
    env.step_async(action[::-1])
    expected = twin.step(action[::-1].copy())
    action[:] = 0.0
    np.testing.assert_array_equal(env.step_wait()[0], expected[0])


def test_it_counts_as_monitored() -> None:
    assert make().env_is_wrapped(Monitor) == [True] * 4


# ------------------------------------------------ mistakes


class Flat(Cart):
    def observe(self, data: Any) -> th.Tensor:
        return data.sensordata[:, 0]


class FloatEnd(Cart):
    def evaluate(self, data: Any, action: th.Tensor, before: Any, after: Any) -> Outcome:
        return Outcome(data.sensordata[:, 0], data.sensordata[:, 0], {})


class ScalarReward(Cart):
    def evaluate(self, data: Any, action: th.Tensor, before: Any, after: Any) -> Outcome:
        return Outcome(data.sensordata[:, 0].sum(), None, {})


class WrongField(Cart):
    needs = ("sensordate",)


class Forgetful(Cart):
    def __init__(self) -> None:
        self.model = CART


class Unprepared(Cart):
    def setup(self, model: Any) -> None:
        self.nothing = model


class Unasked(Cart):
    def observe(self, data: Any) -> th.Tensor:
        return data.xpos[:, 0]


class Comma(Cart):
    needs = "sensordata"  # type: ignore[assignment]


class UnknownModelField(Cart):
    model_needs = ("body_mas",)


class ShortStart(Cart):
    def initial_state(self, draw: Any) -> tuple[th.Tensor, th.Tensor]:
        return draw.uniform(0, 1, 1), draw.uniform(0, 1, 3)


class PlainTuple(Cart):
    def evaluate(self, data: Any, action: th.Tensor, before: Any, after: Any) -> Any:
        return data.sensordata[:, 0], None, {}


class Reserved(Cart):
    def evaluate(self, data: Any, action: th.Tensor, before: Any, after: Any) -> Outcome:
        return Outcome(data.sensordata[:, 0], None, {"episode": data.sensordata[:, 0]})


class Uncomputed(Cart):
    needs = ("subtree_linvel",)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("HalfCheeta-v5", {}, "did you mean 'HalfCheetah-v5'"),
        ("Hopper-v4", {}, "did you mean 'Hopper-v5'"),
        ("CartPole-v1", {}, "make_vec_env"),
        ("Hopper-v5", {"ctrl_cost": 1.0}, "did you mean ctrl_cost_weight"),
        ("Hopper-v5", {"n_envs": 0}, "n_envs is 0"),
        ("Hopper-v5", {"n_envs": 2.5}, "n_envs is 2.5"),
        ("Hopper-v5", {"n_threads": 0}, "n_threads is 0"),
        ("Hopper-v5", {"max_episode_steps": 0}, "max_episode_steps"),
        ("Hopper-v5", {"xml_file": "hoper.xml"}, "hopper.xml"),
        ("Hopper-v5", {"xml_file": "./no/such.xml"}, "no MJCF file"),
        ("Hopper-v5", {"render_mode": "rgb"}, "render_mode is 'rgb'"),
        ("Hopper-v5", {"camera_name": "front"}, r"\['track'\]"),
        ("Hopper-v5", {"camera_id": 7}, "camera_id is 7"),
        ("Hopper-v5", {"camera_id": 0, "camera_name": "track"}, "give one"),
        (Cart(), {"wheel_radius": 1.0}, "where the task is made"),
        (Cart(), {"n_env": 2}, "did you mean n_envs"),
        ("Hopper-v5", {"randomisation": {}}, "did you mean randomization"),
        (Forgetful(), {}, r"super\(\).__init__"),
        (Unprepared(), {}, r"super\(\).setup"),
        (Unasked(), {}, "add it to its `needs`"),
        (Comma(), {}, "with its comma"),
        (UnknownModelField(), {}, "no field of MjModel"),
        (ShortStart(), {}, r"velocities of shape \[1, 3\]"),
        (PlainTuple(), {}, "return Outcome"),
        (Reserved(), {}, "'episode', a name that infos use already"),
        ("Hopper-v5", {"randomization": ["body_mass"]}, "give a mapping"),
        ("Hopper-v5", {"width": "480"}, "width is '480'"),
        ("Hopper-v5", {"frame_skip": 0}, "frame_skip=0"),
        ("Hopper-v5", {"seed": "0"}, "seed is '0'"),
        ("Hopper-v5", {"seed": -1}, "seed is -1"),
        ("Hopper-v5", {"frame_skip": 2.5}, "frame_skip=2.5"),
        (Cart("<mujoco><nonsense/></mujoco>"), {}, "cannot compile"),
        (Cart(3.0), {}, "MjSpec"),
        (Cart("<mujoco><worldbody><body><joint/><geom size='1'/></body></worldbody></mujoco>"), {}, "no actuators"),
        (Cart(CART.replace(' ctrlrange="-1 1"', "")), {}, r"without a ctrlrange: \['push'\]"),
        (Flat(), {}, r"observe\(\) gave \[2\]"),
        (FloatEnd(), {}, "make it bool"),
        (ScalarReward(), {}, "reward of ScalarReward"),
        (WrongField(), {}, "sensordate"),
        (Uncomputed(), {}, "add a sensor"),
        (MujocoTask(CART), {}, "override evaluate"),
        (3, {}, "unknown task 3"),
        (Cart, {}, r"give an instance of it, Cart\(\)"),
    ],
)
def test_mistakes_are_named_before_the_first_step(task: Any, options: dict, message: str) -> None:
    with pytest.raises((InvalidArgument, TypeError, AttributeError), match=message):
        MujocoVecEnv(task, **{"n_envs": 2, **options})


def test_actions_of_the_wrong_shape_are_refused() -> None:
    env = make(n_envs=2)
    for shape in ((3,), (2, 2), (1, 3)):
        with pytest.raises(InvalidArgument, match=r"give \[2, 3\]"):
            env.step(np.zeros(shape, np.float32))


def test_a_step_before_the_first_reset_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        MujocoVecEnv("Hopper-v5", n_envs=2).step(np.zeros((2, 3), np.float32))


def test_a_state_of_another_environment_is_refused() -> None:
    env = make(n_envs=2)
    delayed = make(n_envs=2, action_delay=1)
    before = env.state_dict()
    for other in (
        make(n_envs=3),
        make("Walker2d-v5", n_envs=2),
        make(n_envs=2, randomization={"body_mass": {"scale": [1, 1]}}),
        make(n_envs=2, exclude_current_positions_from_observation=False),
        delayed,
    ):
        with pytest.raises(InvalidArgument, match="same arguments"):
            env.load_state_dict(other.state_dict())
        # Refused before anything changed.
        assert all(th.equal(before[name], env.state_dict()[name]) for name in ("physics", "observations"))
    with pytest.raises(InvalidArgument, match="same arguments"):
        delayed.load_state_dict(make(n_envs=2, action_delay=(0, 3)).state_dict())
    with pytest.raises(InvalidArgument, match="no state"):
        env.load_state_dict({})


def test_mujoco_writes_no_log_file_into_the_working_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    env = make("HalfCheetah-v5")
    poison(env, 0, np.nan)
    env.step(actions(env, 1)[0])
    assert env.num_diverged == 1
    assert list(tmp_path.iterdir()) == []


def test_an_old_or_missing_mujoco_is_an_error_that_says_what_to_install(monkeypatch: Any) -> None:
    import sb3_ppo_plus.envs as envs

    for name in [name for name in sys.modules if name.startswith("sb3_ppo_plus.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)
    with pytest.raises(ImportError, match=r"3\.17 or newer.*found: \d.*pip install") as error:
        envs.MujocoVecEnv  # noqa: B018
    assert "DummyVecEnv" in str(error.value)
    assert envs.TensorVecEnv is not None
