"""MujocoVecEnv on MuJoCo-Warp: graphs, masked resets, what the host does not wait for, randomization, room, states."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("mujoco.batch", reason="MuJoCo 3.17 or newer is not installed")
pytest.importorskip("mujoco_warp", reason="MuJoCo-Warp is not installed: pip install sb3_ppo_plus[warp]")

import warp

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import MujocoTask, MujocoVecEnv, Outcome, TensorVecNormalize
from sb3_ppo_plus.envs.mujoco.warp_vec_env import WarpVecEnv
from sb3_ppo_plus.errors import InvalidArgument

pytestmark = pytest.mark.timeout(300)

RANDOMIZATION = {
    "body_mass": {"scale": [0.5, 2.0], "names": ["torso"], "also": ["body_inertia"]},
    "geom_friction": {"scale": {"log_uniform": [0.5, 2.0]}, "columns": [0], "shared": True},
    "gravity": {"field": "opt.gravity", "add": {"normal": [0.0, 0.5]}, "columns": [2]},
    "dof_damping": {"set": [0.5, 1.5]},
}
SLIDER = """<mujoco><worldbody><body name="cart"><joint name="j" type="slide" axis="1 0 0"/><geom size=".1" mass="1"/>
</body></worldbody><actuator><motor joint="j" ctrlrange="-1 1"/></actuator></mujoco>"""


class Slider(MujocoTask):
    """A cart on a line, which sees the engine's own memory."""

    def observe(self, data: Any) -> th.Tensor:
        return data.qpos

    def evaluate(self, data: Any, action: Any, before: Any, after: Any) -> Outcome:
        return Outcome(data.qvel[:, 0], None, {"position": data.qpos[:, 0]})


def make(task: Any = "Hopper-v5", n_envs: int = 4, **options: Any) -> WarpVecEnv:
    return MujocoVecEnv(task, n_envs, **{"seed": 3, "engine": "warp", "device": "cpu", **options})


def actions_for(env: WarpVecEnv, n_steps: int, seed: int = 0) -> list[th.Tensor]:
    rng, space = np.random.default_rng(seed), env.action_space
    size = (env.num_envs, *space.shape)
    return [th.from_numpy(rng.uniform(space.low, space.high, size).astype(np.float32)) for _ in range(n_steps)]


def record(env: WarpVecEnv, n_steps: int = 40, seed: int = 0) -> list[dict[str, th.Tensor]]:
    """All that a reset and some steps give, copied."""
    rows = [{"obs": env.reset_tensors().clone()}]
    for actions in actions_for(env, n_steps, seed):
        step = env.step_tensors(actions)
        named = {name: getattr(step, name) for name in step._fields if name != "stats"}
        named |= step.stats | {f"reset {name}": value for name, value in env.reset_stats.items()}
        rows.append({name: value.clone() for name, value in named.items()})
    return rows


def assert_equal(ours: list[dict[str, th.Tensor]], theirs: list[dict[str, th.Tensor]]) -> None:
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.keys() == other.keys()
        for name, value in other.items():
            assert th.equal(mine[name], value), (index, name)


# ------------------------------------------------ what it is


def test_it_is_asked_for_by_name_and_is_a_mujoco_vec_env() -> None:
    env = make()
    assert type(env) is WarpVecEnv and isinstance(env, MujocoVecEnv)
    assert env.observation_space.dtype == np.float32
    theirs, ours = (inspect.signature(kind).parameters for kind in (MujocoVecEnv, WarpVecEnv))
    assert [name for name in theirs if name != "engine"] == list(ours)
    assert all(theirs[name].default == entry.default for name, entry in ours.items())


def test_a_task_sees_the_engines_own_memory() -> None:
    env = make("Humanoid-v5", 2)
    for name in ("qpos", "qvel", "ctrl", "xipos", "cinert", "cfrc_ext", "ten_length"):
        view, array = getattr(env.data, name), getattr(env.physics._d, name)
        assert view.data_ptr() == array.ptr, name
    assert env.data.cinert.shape == (2, 14, 10)


def test_sb3_s_face_gives_the_same_numbers_in_one_copy() -> None:
    ours, theirs = make(max_episode_steps=9), make(max_episode_steps=9)
    obs = ours.reset()
    assert np.array_equal(obs, theirs.reset_tensors().numpy())
    for actions in actions_for(ours, 20):
        obs, rewards, dones, infos = ours.step(actions.numpy())
        step = theirs.step_tensors(actions)
        assert obs.dtype == rewards.dtype == np.float32
        assert np.array_equal(obs, step.obs.numpy()) and np.array_equal(rewards, step.rewards.numpy())
        assert np.array_equal(dones, (step.terminated | step.truncated).numpy())
        for index in dones.nonzero()[0]:
            assert np.array_equal(infos[index]["terminal_observation"], step.final_obs[index].numpy())
            assert infos[index]["episode"]["l"] == int(step.stats["episode_length"][index])
    assert infos[0]["x_velocity"] == pytest.approx(float(step.stats["x_velocity"][0]))


def test_a_robot_can_be_looked_at() -> None:
    env = make(n_envs=3, randomization=RANDOMIZATION)
    env.reset()
    env.step(np.full((3, 3), 0.5, np.float32))
    data, model = env.get_attr("data")[1], env.get_attr("model")[1]
    np.testing.assert_allclose(data.qpos, env.data.qpos[1].numpy())
    assert data.time == pytest.approx(0.008) and list(data.ctrl) == [0.5] * 3
    np.testing.assert_allclose(model.body_mass, env.physics.varied["body_mass"][1].numpy())


# ------------------------------------------------ graphs


@pytest.mark.parametrize("task", ["Hopper-v5", "Ant-v5"])
def test_a_graph_does_what_its_kernels_do_one_by_one(task: str) -> None:
    recorded, eager = (make(task, 3, engine_options={"record": record}) for record in (True, False))
    assert recorded.physics._step._graph is not None and eager.physics._step._graph is None
    assert_equal(record(recorded, 25), record(eager, 25))


def test_a_graph_that_cannot_be_recorded_is_told_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = record(make(), 10)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no graphs today")

    monkeypatch.setattr(warp, "ScopedCapture", refuse)
    env = make()
    assert "cannot be recorded as a graph, steps take longer: no graphs today" in caplog.text
    assert_equal(record(env, 10), expected)


def test_sums_in_the_same_order_can_be_asked_for() -> None:
    env = make("HalfCheetah-v5", 2, engine_options={"deterministic": True})
    assert env.physics._m.opt.deterministic != 0
    assert_equal(record(env, 5), record(make("HalfCheetah-v5", 2, engine_options={"deterministic": True}), 5))


# ------------------------------------------------ nothing waits for the device


class NoWaiting(TorchDispatchMode):
    """Fails at the operations that bring a number, or a shape that depends on one, to the host."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        assert name not in self.waiting, f"{name} makes the host wait for the device"
        if name in ("index", "index_put") and any(getattr(i, "dtype", None) == th.bool for i in args[1]):
            raise AssertionError("an index of flags makes the host wait for the device")
        return func(*args, **(kwargs or {}))


def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of an accelerator, on the processor: resets in every step, counts that arrive later."""
    monkeypatch.setattr(WarpVecEnv, "_must_look_after", lambda self, done: True)
    monkeypatch.setattr("sb3_ppo_plus.envs.mujoco.warp_tally._EVERY", 10**9)


@pytest.mark.parametrize(
    "task, options",
    [
        ("Hopper-v5", {"randomization": RANDOMIZATION, "action_delay": [0, 2], "observation_noise": 0.01}),
        ("Ant-v5", {}),
        ("Humanoid-v5", {"randomization": {"body_mass": {"scale": [0.8, 1.2]}}}),
        ("Pusher-v5", {"max_episode_steps": 4}),
        ("InvertedDoublePendulum-v5", {}),
    ],
)
def test_a_step_asks_nothing_of_the_device(monkeypatch: pytest.MonkeyPatch, task: str, options: Any) -> None:
    as_on_a_device(monkeypatch)
    env = make(task, **options)
    for tally in (env.physics.tally, env._divergences):
        tally._waits = True
    env.reset_tensors()
    ended = 0
    for actions in actions_for(env, 12):
        with NoWaiting():
            step = env.step_tensors(actions)
        ended += int((step.terminated | step.truncated).sum())
    assert ended or task in ("Ant-v5", "Hopper-v5", "Humanoid-v5")


@pytest.mark.parametrize("task, options", [("Hopper-v5", {"randomization": RANDOMIZATION}), ("Ant-v5", {})])
def test_resetting_in_every_step_changes_nothing(monkeypatch: pytest.MonkeyPatch, task: str, options: Any) -> None:
    options = {"max_episode_steps": 13, **options}
    looking = record(make(task, 3, **options), 40)
    as_on_a_device(monkeypatch)
    assert_equal(record(make(task, 3, **options), 40), looking)
    assert sum(int(row["truncated"].sum()) for row in looking[1:]) >= 3


@pytest.mark.parametrize("task", ["Hopper-v5", "Ant-v5"])
def test_a_step_is_measured_from_where_its_episode_is(task: str) -> None:
    """In the first step from where it began, in the others from the step before; never from another episode."""
    env = make(task, 3, max_episode_steps=7)
    env.reset_tensors()
    x, ends = env.reset_stats["x_position"].clone(), 0
    for actions in actions_for(env, 22):
        step = env.step_tensors(actions)
        expected = (step.stats["x_position"] - x) / env.task.dt
        # Ant's torso is read where the last physics step found it, and it moves by some centimetres in one.
        close = 1e-3 if task == "Hopper-v5" else 3.0
        assert (step.stats["x_velocity"] - expected).abs().max() < close
        done = step.terminated | step.truncated
        ends += int(done.sum())
        x = th.where(done, env.reset_stats["x_position"], step.stats["x_position"])
    assert ends >= 9


def test_what_ends_is_reset_and_the_others_go_on() -> None:
    env = make("Ant-v5", 3)
    env.reset_tensors()
    for actions in actions_for(env, 4):
        env.step_tensors(actions)
    before, kept = env.physics.get_state(), env.data.cfrc_ext.clone()
    mask = th.tensor([False, True, False])
    env.physics.begin(mask, th.full((3, 15), 0.25), th.full((3, 14), 0.5))
    after = env.physics.get_state()
    for name, values in after.items():
        assert th.equal(values[[0, 2]], before[name][[0, 2]]), name
    assert (after["qpos"][1] == 0.25).all() and (after["qvel"][1] == 0.5).all()
    assert not after["time"][1] and not after["qacc_warmstart"][1].any() and not after["ctrl"][1].any()
    assert not env.data.cfrc_ext[1].any() and th.equal(env.data.cfrc_ext[[0, 2]], kept[[0, 2]])


# ------------------------------------------------ what a robot is


def test_masses_friction_gravity_and_what_follows_from_them() -> None:
    nominal = make().physics.model
    env = make(n_envs=6, randomization=RANDOMIZATION)
    env.reset()
    models, torso = env.get_attr("model"), nominal.body("torso").id
    varied = env.physics.varied
    factors = [info["randomization/body_mass"] for info in env.reset_infos]
    assert len(set(factors)) == 6 and all(0.5 <= factor <= 2.0 for factor in factors)
    subtree = warp.to_torch(env.physics._m.body_subtreemass)
    for index, (model, factor) in enumerate(zip(models, factors, strict=True)):
        assert float(varied["body_mass"][index, torso]) == pytest.approx(factor * nominal.body_mass[torso], rel=1e-6)
        np.testing.assert_allclose(model.body_inertia[torso], factor * nominal.body_inertia[torso], rtol=1e-6)
        assert float(subtree[index, 0]) == pytest.approx(model.body_subtreemass[0], rel=1e-6)
        friction = model.geom_friction / nominal.geom_friction
        assert friction[:, 0] == pytest.approx(env.reset_infos[index]["randomization/geom_friction"], rel=1e-6)
        np.testing.assert_allclose(friction[:, 1:], 1.0, rtol=1e-6)
        assert model.opt.gravity[2] == pytest.approx(-9.81 + env.reset_infos[index]["randomization/gravity"], rel=1e-6)
        assert ((model.dof_damping >= 0.5) & (model.dof_damping <= 1.5)).all()


def test_the_physics_obeys() -> None:
    """Twice the mass, half the acceleration; and each robot has its own."""

    env = make(Slider(SLIDER, 1, 0.0), 5, randomization={"body_mass": {"scale": [0.5, 2.0], "names": ["cart"]}})
    env.reset()
    env.step(np.ones((5, 1), np.float32))
    masses = env.physics.varied["body_mass"][:, 1]
    assert len(set(masses.tolist())) == 5
    th.testing.assert_close(env.data.qvel[:, 0], 0.002 / masses)


def test_a_draw_comes_with_an_episode_and_stays_with_it() -> None:
    env = make(n_envs=3, randomization=RANDOMIZATION, max_episode_steps=5)
    rows = record(env, 12)
    factors = th.stack([row["randomization/body_mass"] for row in rows[1:]])
    assert th.equal(factors[0], factors[4]) and not (factors[4] == factors[5]).any()
    assert th.equal(rows[5]["reset randomization/body_mass"], factors[5])
    # The draws have sequences of their own: starts are those of an environment without randomization.
    assert th.equal(rows[0]["obs"], make(n_envs=3).reset_tensors())
    assert not (env.randomizer.draws.keys == env.draws.keys).any()


def test_strength_follows_the_clock() -> None:
    term = {"scale": [0.5, 0.6], "names": ["torso"], "strength": {"type": "linear", "start": 0.0, "end": 1.0}}
    env = make(n_envs=2, randomization={"body_mass": {**term, "over": 20}}, max_episode_steps=5)
    env.reset()
    assert [info["randomization/body_mass"] for info in env.reset_infos] == [1.0, 1.0]
    for actions in actions_for(env, 5):
        env.step_tensors(actions)
    half = env.randomizer.values["body_mass"]
    assert ((half > 0.7) & (half < 0.81)).all()
    env.randomizer.finish_schedules()
    env.reset()
    assert (env.randomizer.values["body_mass"] < 0.61).all()


@pytest.mark.parametrize(
    "randomization, message",
    [
        ({"body_masss": {"scale": [1, 2]}}, "body_masss"),
        ({"geom_fluid": {"scale": [1, 2]}}, "MuJoCo-Warp has 'geom_fluid' once for all simulations"),
        ({"opt.timestep": {"scale": [1, 2]}}, "opt.timestep cannot differ"),
    ],
)
def test_what_cannot_be_randomized_is_named(randomization: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make(randomization=randomization)


# ------------------------------------------------ when it goes wrong


def test_contacts_without_room_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    env = make("HalfCheetah-v5", 2, engine_options={"nconmax": 1, "njmax": 4})
    env.reset_tensors()
    with caplog.at_level(logging.WARNING):
        for actions in actions_for(env, 60):
            env.step_tensors(actions)
    assert env.overflows["contact_overflows"] > 0 and env.overflows["constraint_overflows"] > 0
    assert "give engine_options={'nconmax': ...} more than 1" in caplog.text
    assert "give engine_options={'njmax': ...} more than 4" in caplog.text
    counts = env.overflows
    # In the air, with every joint at rest, there is nothing to make room for, and nothing more to count.
    env.physics.set_state({"qpos": th.tensor([[0.0, 5.0, *[0.0] * 7]] * 2), "qvel": th.zeros(2, 9)})
    env.step_tensors(th.zeros(2, 6))
    assert env.overflows == counts
    log = env.take_log()
    assert log["env/constraint_overflows"] == env.overflows["constraint_overflows"]
    assert env.take_log() == {}


def test_a_probe_finds_room_for_what_robots_do() -> None:
    env = make("HumanoidStandup-v5", 4)
    record(env, 40)
    assert not any(env.overflows.values())
    assert make("HumanoidStandup-v5", 1, engine_options={"nconmax": 100}).physics.sizes.nconmax == 100


@pytest.mark.parametrize("field", ["qpos", "qvel"])
def test_a_robot_that_diverges_ends_its_episode_and_no_other(field: str, caplog: pytest.LogCaptureFixture) -> None:
    env, twin = make("Ant-v5", 3), make("Ant-v5", 3)
    for each in (env, twin):
        each.reset_tensors()
    actions = actions_for(env, 4)
    for each in (env, twin):
        last = each.step_tensors(actions[0]).obs.clone()
    getattr(env.data, field)[1, 2] = float("nan")
    step, other = env.step_tensors(actions[1]), twin.step_tensors(actions[1])
    assert step.stats["diverged"].tolist() == [False, True, False] == step.terminated.tolist()
    assert float(step.rewards[1]) == 0.0 and float(step.stats["x_velocity"][1]) == 0.0
    assert th.equal(step.final_obs[1], last[1]) and step.obs.isfinite().all()
    assert "1 simulations diverged; their episodes end, 1 so far" in caplog.text and env.num_diverged == 1
    for index in (0, 2):
        assert th.equal(step.obs[index], other.obs[index]) and th.equal(step.rewards[index], other.rewards[index])
    for later in actions[2:]:
        step, other = env.step_tensors(later), twin.step_tensors(later)
        assert step.obs.isfinite().all() and not step.stats["diverged"].any()
        assert th.equal(step.obs[[0, 2]], other.obs[[0, 2]])


def test_a_task_may_show_the_engines_memory() -> None:
    env = make(Slider(SLIDER, 5, 0.1, max_episode_steps=3), 2)
    first = env.reset_tensors().clone()
    env.data.qpos[0] = float("nan")
    step = env.step_tensors(th.ones(2, 1))
    assert th.equal(step.final_obs[0], first[0]) and step.stats["diverged"].tolist() == [True, False]
    for _ in range(6):
        step = env.step_tensors(th.ones(2, 1))
        ended = step.terminated | step.truncated
        assert th.equal(step.final_obs[:, 0], step.stats["position"])
        assert not (step.obs[:, 0] == step.final_obs[:, 0])[ended].any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device": "mps"}, "MuJoCo-Warp computes on NVIDIA GPUs"),
        ({"device": "nowhere"}, "'nowhere' is none that torch knows"),
        ({"n_threads": 2}, "n_threads=2 goes with engine='cpu'"),
        ({"engine_options": {"nconmx": 3}}, "there is nconmax, njmax, record, deterministic"),
        ({"engine_options": {"njmax": 0}}, "whole number of at least 1"),
        ({"engine_options": {"record": 1}}, "give true or false"),
        ({"engine_options": 3}, "give a mapping"),
        ({"ctrl_cost": 1.0}, "did you mean ctrl_cost_weight"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make(**options)


def test_a_device_that_is_not_there_is_named() -> None:
    if th.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InvalidArgument, match="torch finds no CUDA device"):
        make(device="cuda")


def unknown_field(task: MujocoTask) -> None:
    task.needs = ("qfrc_whatever",)


def sleep(task: MujocoTask) -> None:
    task.model = SLIDER.replace("<worldbody>", '<option><flag sleep="enable"/></option><worldbody>')


def delay(task: MujocoTask) -> None:
    task.model = SLIDER.replace("<motor ", '<motor delay="0.004" nsample="4" ')


@pytest.mark.parametrize(
    "spoil, message",
    [(unknown_field, "use engine='cpu'"), (sleep, "bodies that fall asleep"), (delay, "actuators with a delay")],
)
def test_what_warp_lacks_is_named(spoil: Callable[[MujocoTask], None], message: str) -> None:
    task = MujocoTask(SLIDER)
    task.evaluate = lambda data, action, before, after: Outcome(data.qpos[:, 0], None, {})  # type: ignore[method-assign]
    spoil(task)
    with pytest.raises(InvalidArgument, match=message):
        make(task)


def test_actions_of_another_shape_and_steps_too_early() -> None:
    env = make()
    with pytest.raises(RuntimeError, match="before the first reset"):
        env.step_tensors(th.zeros(4, 3))
    env.reset_tensors()
    with pytest.raises(InvalidArgument, match=r"shape \[4, 2\]; give \[4, 3\]"):
        env.step_tensors(th.zeros(4, 2))


def test_a_state_of_another_environment_is_refused() -> None:
    state = make().state_dict()
    with pytest.raises(InvalidArgument, match="Hopper 4 11 and this is MujocoVecEnv of engine warp Hopper 5 11"):
        make(n_envs=5).load_state_dict(state)
    with pytest.raises(InvalidArgument, match="another randomization"):
        make(randomization=RANDOMIZATION).load_state_dict(state)
    with pytest.raises(InvalidArgument):
        make().load_state_dict(MujocoVecEnv("Hopper-v5", 4).state_dict())


# ------------------------------------------------ training


def test_a_policy_learns_on_it() -> None:
    env = TensorVecNormalize(make("InvertedPendulum-v5", 16))
    model = PPOPlus("MlpPolicy", env, n_steps=64, batch_size=256, learning_rate=1e-3, seed=0, device="cpu")
    model.learn(16 * 64)
    early = np.mean([info["l"] for info in model.ep_info_buffer])
    model.learn(16 * 64 * 12)
    assert np.mean([info["l"] for info in model.ep_info_buffer]) > 3 * early


def test_the_benchmark_writes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import gpu_warp

    gpu_warp.main(["--device", "cpu", "--quick", "--tasks", "Hopper-v5", "--output", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert text.count("| Hopper-v5 | 8 |") == 1 and "Warp's CPU device" in text
