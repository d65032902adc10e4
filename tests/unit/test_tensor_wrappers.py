"""The wrappers on the tensor face, and SB3's own wrappers around its NumPy face."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    sync_envs_normalization,
    unwrap_vec_normalize,
)
from toy_envs import DictPointMass, DiscretePointMass, PointMass

from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN, TensorVecEnv
from sb3_ppo_plus.envs.base_wrapper import TensorVecEnvWrapper
from sb3_ppo_plus.envs.normalize import TensorVecNormalize
from sb3_ppo_plus.envs.wrappers import TensorVecFrameStack, TensorVecMonitor
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import Observations, TensorStep

pytestmark = pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor` wrapper")


class Camera(PointMass):
    """A point mass that is seen through a camera: one bright row of a small picture, channels last."""

    shape: tuple[int, ...] = (4, 6, 3)

    def make_observation_space(self) -> spaces.Space:
        return spaces.Box(0, 255, self.shape, np.uint8)

    def observe(self) -> Observations:
        bright = (self.x.abs() * 200).clip(0, 255).to(th.uint8)
        ramp = th.arange(int(np.prod(self.shape)), dtype=th.uint8).view(self.shape)
        return bright.view(-1, 1, 1, 1) // 2 + ramp


class ChannelsFirstCamera(Camera):
    shape = (3, 4, 6)


class CameraAndPosition(Camera):
    """A Dict of both, in an order that is not the alphabet's."""

    def make_observation_space(self) -> spaces.Space:
        space = spaces.Dict({"picture": super().make_observation_space()})
        space.spaces["a_position"] = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        return space

    def observe(self) -> Observations:
        return {"picture": super().observe(), "a_position": self.x[:, None].float()}


class Valueless(TensorVecEnv):
    """On the meta device tensors have no values, so whoever waits for one gets an error."""

    def __init__(self) -> None:
        self.render_mode = None
        box = spaces.Box(-1.0, 1.0, (2,), np.float32)
        super().__init__(3, spaces.Dict({"one": box, "other": box}), box, "meta")

    def empty(self, *shape: int, dtype: th.dtype = th.float32) -> th.Tensor:
        return th.empty(3, *shape, dtype=dtype, device="meta")

    def reset_tensors(self) -> Observations:
        return {"one": self.empty(2), "other": self.empty(2)}

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        flags = self.empty(dtype=th.bool)
        return TensorStep(self.reset_tensors(), self.empty(), flags, flags, self.reset_tensors(), {})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def actions_of(env: VecEnv, n_steps: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (env.num_envs, *env.action_space.shape)).astype(np.float32) for _ in range(n_steps)]


def play(env: VecEnv, n_steps: int = 30, seed: int = 0) -> VecEnv:
    env.reset()
    for actions in actions_of(env, n_steps, seed):
        env.step(actions)
    return env


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, RunningMeanStd):
        assert_equal(vars(one), vars(other))
    elif isinstance(one, (np.ndarray, float)):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        assert np.array_equal(one, other)
    else:
        assert type(one) is type(other) and one == other


def assert_same_steps(ours: VecEnv, theirs: VecEnv, n_steps: int = 40) -> None:
    """Observations, rewards, dones and terminal observations, from reset on."""
    ended = 0
    assert_equal(ours.reset(), theirs.reset())
    for actions in actions_of(theirs, n_steps):
        *numbers, infos = ours.step(actions)
        *expected, expected_infos = theirs.step(actions)
        for one, other in zip(numbers, expected, strict=True):
            assert_equal(one, other)
        for info, expected_info in zip(infos, expected_infos, strict=True):
            last, expected_last = info.get("terminal_observation"), expected_info.get("terminal_observation")
            assert (last is None) == (expected_last is None)
            if last is not None:
                assert_equal(last, expected_last)
                ended += 1
    assert ended > 2


# ------------------------------------------------ TensorVecNormalize: being a VecNormalize


def test_sb3_finds_the_normalizer() -> None:
    env = TensorVecNormalize(PointMass(2, seed=0))
    model = PPO("MlpPolicy", TensorVecMonitor(env), n_steps=8, batch_size=16, device="cpu")
    assert model.get_vec_normalize_env() is env
    assert unwrap_vec_normalize(env) is env


def test_sb3_wrappers_inside_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="VecMonitor"):
        TensorVecNormalize(VecMonitor(PointMass(2, seed=0)))


@pytest.mark.parametrize("make", [PointMass, DictPointMass])
def test_statistics_are_synchronized_with_an_evaluation_environment(make: type[PointMass]) -> None:
    env, other, theirs = TensorVecNormalize(make(3, 0)), TensorVecNormalize(make(1, 0)), VecNormalize(make(1, 0))
    play(env)
    for target in (other, theirs):
        sync_envs_normalization(env, target)
        assert_equal(target.obs_rms, env.obs_rms)
        assert_equal(target.ret_rms, env.ret_rms)
    back = TensorVecNormalize(make(3, 0))
    sync_envs_normalization(theirs, back)
    assert_equal(back.obs_rms, env.obs_rms)


def test_statistics_that_do_not_exist_are_an_attribute_error() -> None:
    env, other = (TensorVecNormalize(PointMass(2, seed=0), norm_obs=False) for _ in range(2))
    assert not hasattr(env, "obs_rms")
    assert not hasattr(env, "old_obs")
    sync_envs_normalization(play(env), other)
    assert_equal(other.ret_rms, env.ret_rms)


def test_callbacks_of_sb3_evaluate_and_save(tmp_path: Path) -> None:
    env = TensorVecNormalize(TensorVecMonitor(PointMass(4, seed=0)))
    eval_env = TensorVecNormalize(TensorVecMonitor(PointMass(2, seed=1)), training=False, norm_reward=False)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=32, n_epochs=1, device="cpu")
    evaluation = EvalCallback(eval_env, n_eval_episodes=2, eval_freq=8, verbose=0)
    model.learn(64, callback=[evaluation, CheckpointCallback(16, str(tmp_path), save_vecnormalize=True)])
    assert np.isfinite(evaluation.last_mean_reward)
    saved = VecNormalize.load(str(tmp_path / "rl_model_vecnormalize_64_steps.pkl"), PointMass(1, seed=0))
    assert type(saved) is VecNormalize
    assert_equal(saved.obs_rms, env.obs_rms)
    assert_equal(eval_env.obs_rms, env.obs_rms)


def test_original_observations_and_rewards_are_those_of_the_environment() -> None:
    env, bare = TensorVecNormalize(PointMass(3, seed=0)), PointMass(3, seed=0)
    assert env.get_original_reward().shape == (0,)
    env.reset_tensors()
    assert th.equal(env.get_original_obs_tensors(), bare.reset_tensors())
    for actions in actions_of(env, 20):
        env.step(actions)
        obs, rewards, _, _ = bare.step(actions)
        assert_equal(env.get_original_obs(), obs)
        assert_equal(env.get_original_reward(), rewards)
        assert_equal(env.get_original_obs_tensors().numpy(), obs)
        assert_equal(env.get_original_reward_tensors().numpy(), rewards)


def test_statistics_that_were_given_out_are_copies() -> None:
    env = play(TensorVecNormalize(PointMass(3, seed=0)))
    before = copy.deepcopy(env.obs_rms)
    env.obs_rms.mean += 1.0
    env.obs_rms.update(np.ones((4, 2)))
    env.returns[:] = 7.0
    assert_equal(env.obs_rms, before)
    assert not (env.returns == 7.0).any()


def test_statistics_stand_still_unless_training() -> None:
    env = play(TensorVecNormalize(PointMass(3, seed=0)))
    env.training = False
    before = {"obs": env.obs_rms, "ret": env.ret_rms}
    play(env)
    assert_equal({"obs": env.obs_rms, "ret": env.ret_rms}, before)


# ------------------------------------------------ TensorVecNormalize: files


class Modules(pickle.Unpickler):
    """Notes from which modules a pickle takes its classes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.found: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.found.add(module.partition(".")[0])
        return super().find_class(module, name)


@pytest.mark.parametrize("make", [PointMass, DictPointMass, Camera])
@pytest.mark.parametrize("played", [False, True])
def test_a_saved_file_is_that_of_sb3(make: type[PointMass], played: bool, tmp_path: Path) -> None:
    ours, theirs = TensorVecNormalize(make(3, 0)), VecNormalize(make(3, 0))
    for env, name in ((ours, "ours.pkl"), (theirs, "theirs.pkl")):
        if played:
            play(env)
        env.save(str(tmp_path / name))
    modules = Modules((tmp_path / "ours.pkl").read_bytes())
    loaded, expected = modules.load(), pickle.loads((tmp_path / "theirs.pkl").read_bytes())
    assert type(loaded) is VecNormalize
    assert modules.found <= {"builtins", "copyreg", "collections", "gymnasium", "numpy", "stable_baselines3"}
    assert_equal(vars(loaded), vars(expected))


@pytest.mark.parametrize("make", [PointMass, DictPointMass])
def test_files_of_both_are_opened_by_both(make: type[PointMass], tmp_path: Path) -> None:
    expected = play(VecNormalize(make(3, 0), clip_obs=1.5, gamma=0.9, norm_reward=False))
    ours = play(TensorVecNormalize(make(3, 0), clip_obs=1.5, gamma=0.9, norm_reward=False))
    for env in (expected, ours):
        env.save(str(tmp_path / "file.pkl"))
        opened = TensorVecNormalize.load(tmp_path / "file.pkl", make(3, 1))
        by_sb3 = VecNormalize.load(str(tmp_path / "file.pkl"), make(3, 1))
        assert (opened.clip_obs, opened.gamma, opened.norm_reward) == (1.5, 0.9, False)
        assert_equal(opened.obs_rms, expected.obs_rms)
        assert_same_steps(opened, by_sb3)


def test_going_to_sb3_and_back_changes_nothing() -> None:
    ours, theirs = play(TensorVecNormalize(PointMass(3, seed=0))), play(VecNormalize(PointMass(3, seed=0)))
    to_sb3 = ours.to_vec_normalize(PointMass(3, seed=0))
    assert type(to_sb3) is VecNormalize
    back = TensorVecNormalize.from_vec_normalize(theirs, PointMass(3, seed=0))
    for env in (to_sb3, back, TensorVecNormalize.from_vec_normalize(ours, PointMass(3, seed=0))):
        assert_equal(env.returns, theirs.returns)
        assert_equal(env.ret_rms, theirs.ret_rms)
        assert_equal(env.obs_rms, theirs.obs_rms)
    play(to_sb3)
    assert_equal(ours.obs_rms, theirs.obs_rms)


def test_a_broken_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = play(TensorVecNormalize(PointMass(3, seed=0)))
    env.save(tmp_path / "file.pkl")
    before = (tmp_path / "file.pkl").read_bytes()
    env.clip_obs = lambda: None  # type: ignore[assignment]
    with pytest.raises((AttributeError, pickle.PicklingError)):
        env.save(tmp_path / "file.pkl")
    assert (tmp_path / "file.pkl").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file.pkl"]


def test_a_pickle_is_the_wrapper_without_its_environments(tmp_path: Path) -> None:
    env = play(TensorVecNormalize(PointMass(3, seed=0)))
    data = pickle.dumps(env)
    loaded = pickle.loads(data)
    assert type(loaded) is TensorVecNormalize and loaded.venv is None
    with pytest.raises(AttributeError, match="set_venv"):
        _ = loaded.nothing
    (tmp_path / "file.pkl").write_bytes(data)
    loaded.set_venv(PointMass(2, seed=0))
    expected = env.to_vec_normalize(PointMass(2, seed=0))
    for other in (loaded, TensorVecNormalize.load(tmp_path / "file.pkl", PointMass(2, seed=0), trust=True)):
        assert_same_steps(other, env.to_vec_normalize(PointMass(2, seed=0)))
    assert expected.num_envs == loaded.num_envs == 2


@pytest.mark.parametrize("make", [PointMass, DictPointMass])
def test_a_state_is_refused_by_another_normalizer(make: type[PointMass]) -> None:
    env = play(TensorVecNormalize(make(3, 0)))
    with pytest.raises(InvalidArgument, match="norm_obs_keys"):
        TensorVecNormalize(make(3, 0), norm_obs=False).load_state_dict(env.state_dict())
    with pytest.raises(InvalidArgument, match="2 environments"):
        TensorVecNormalize(make(2, 0)).load_own_state(env.own_state())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    env = TensorVecNormalize(PointMass(3, seed=0))
    env.save(tmp_path / "file.pkl")
    (tmp_path / "other.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InvalidArgument, match="list and no VecNormalize"):
        TensorVecNormalize.load(tmp_path / "other.pkl", PointMass(3, seed=0))
    with pytest.raises(InvalidArgument, match="mean has shape"):
        TensorVecNormalize.load(tmp_path / "file.pkl", TensorVecFrameStack(PointMass(3, seed=0), 2))
    with pytest.raises(InvalidArgument, match="other observations"):
        env.to_vec_normalize(TensorVecFrameStack(PointMass(3, seed=0), 2))
    with pytest.raises(InvalidArgument, match="has environments"):
        env.set_venv(PointMass(3, seed=0))
    with pytest.raises(InvalidArgument, match="tensor face"):
        pickle.loads(pickle.dumps(env)).set_venv(VecMonitor(PointMass(3, seed=0)))
    with pytest.raises(InvalidArgument, match="other observations"):
        pickle.loads(pickle.dumps(env)).set_venv(DictPointMass(3, seed=0))
    with pytest.raises(InvalidArgument, match=r"of \['position'\] and \[''\]"):
        env.obs_rms = {"position": RunningMeanStd(shape=(1,))}
    with pytest.raises(InvalidArgument, match="returns has shape"):
        env.returns = np.zeros(5)
    for keys in ([], ["nothing"]):
        with pytest.raises(InvalidArgument, match="norm_obs_keys"):
            TensorVecNormalize(DictPointMass(3, seed=0), norm_obs_keys=keys)
    with pytest.raises(InvalidArgument, match="norm_obs_keys"):
        TensorVecNormalize(PointMass(3, seed=0), norm_obs_keys=["position"])


def test_normalized_pictures_are_no_longer_pictures() -> None:
    venv = CameraAndPosition(2, seed=0)
    env = TensorVecNormalize(venv, norm_obs_keys=["picture"], clip_obs=5.0)
    assert env.observation_space["picture"] == spaces.Box(-5.0, 5.0, (4, 6, 3), np.float32)
    assert list(env.observation_space.spaces) == list(venv.observation_space.spaces)
    assert venv.observation_space["picture"].dtype == np.uint8
    assert_same_steps(env, VecNormalize(CameraAndPosition(2, seed=0), norm_obs_keys=["picture"], clip_obs=5.0))
    assert TensorVecNormalize(Camera(2, seed=0)).observation_space.dtype == np.float32


@pytest.mark.parametrize(
    "wrap",
    [TensorVecNormalize, lambda env: TensorVecFrameStack(env, 3), TensorVecMonitor],
    ids=["normalize", "frame_stack", "monitor"],
)
def test_no_step_waits_for_the_device(wrap: Any) -> None:
    env = wrap(Valueless())
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(env.reset_tensors()["one"].sum() > 0)
    step = env.step_tensors(th.zeros(3, 2, device="meta"))
    assert step.obs["one"].shape == step.final_obs["one"].shape


# ------------------------------------------------ TensorVecMonitor


def test_episodes_are_counted_as_sb3_does(tmp_path: Path) -> None:
    ours = TensorVecMonitor(PointMass(3, seed=0), str(tmp_path / "ours"), info_keywords=("speed",))
    theirs = VecMonitor(PointMass(3, seed=0), str(tmp_path / "theirs"), info_keywords=("speed",))
    ours.reset(), theirs.reset()
    for actions in actions_of(ours, 40):
        infos, expected = ours.step(actions)[3], theirs.step(actions)[3]
        for info, other in zip(infos, expected, strict=True):
            assert ("episode" in info) == ("episode" in other)
            if "episode" in info:
                assert info["episode"]["l"] == other["episode"]["l"]
                assert info["episode"]["r"] == pytest.approx(other["episode"]["r"], rel=1e-5)
    ours.close(), theirs.close()
    assert ours._writer is not None and ours._writer.file_handler.closed
    pytest.importorskip("pandas")
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / f"{folder}.monitor.csv").rename(tmp_path / folder / "monitor.csv")
    written, expected_table = load_results(str(tmp_path / "ours")), load_results(str(tmp_path / "theirs"))
    assert list(written.columns) == list(expected_table.columns)
    assert len(written) > 8 and written["r"].equals(written["r"].round(6))
    np.testing.assert_allclose(written[["r", "l", "speed"]], expected_table[["r", "l", "speed"]], rtol=1e-5)


def test_a_monitor_counts_what_arrives_at_its_place() -> None:
    # Two steps of reward -|x| each; the figures of the wrapped environment are replaced by its own.
    env = TensorVecMonitor(TensorVecNormalize(PointMass(3, seed=0)))
    env.reset_tensors()
    first = env.step_tensors(th.zeros(3, 1))
    second = env.step_tensors(th.zeros(3, 1))
    assert th.equal(second.stats[EPISODE_RETURN], first.rewards.double() + second.rewards.double())
    assert second.stats[EPISODE_RETURN].dtype == th.float64
    assert second.stats[EPISODE_LENGTH].tolist() == env.episode_lengths.tolist() == [2, 2, 2]
    assert th.equal(env.episode_returns, second.stats[EPISODE_RETURN])
    env.reset_tensors()
    assert env.episode_lengths.tolist() == [0, 0, 0] and env.episode_returns.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.filterwarnings("error:Evaluation environment is not wrapped")
def test_a_monitor_stands_for_that_of_sb3() -> None:
    bare = DiscretePointMass(2, seed=0)
    assert bare.env_is_wrapped(Monitor) == [False, False]
    env = TensorVecMonitor(bare)
    assert env.env_is_wrapped(Monitor) == TensorVecNormalize(env).env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(Monitor, 1) == [True]
    assert TensorVecNormalize(env).provides_episodes
    evaluate_policy(PPO("MlpPolicy", env, n_steps=8, batch_size=16, device="cpu"), env, n_eval_episodes=2)


def test_figures_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    env = TensorVecMonitor(PointMass(2, seed=0), tmp_path / "file", info_keywords=("height",))
    env.reset()
    with pytest.raises(InvalidArgument, match=r"'height'.*'speed'"):
        env.step(np.zeros((2, 1), np.float32))


# ------------------------------------------------ TensorVecFrameStack


@pytest.mark.parametrize("n_stack", [1, 2, 4])
@pytest.mark.parametrize("make", [PointMass, DictPointMass, Camera, ChannelsFirstCamera, CameraAndPosition])
def test_stacks_are_those_of_sb3(make: type[PointMass], n_stack: int) -> None:
    ours, theirs = TensorVecFrameStack(make(3, 0), n_stack), VecFrameStack(make(3, 0), n_stack)
    assert ours.observation_space == theirs.observation_space
    assert_same_steps(ours, theirs)


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("make", [PointMass, Camera])
def test_the_axis_may_be_chosen(make: type[PointMass], order: str) -> None:
    assert_same_steps(TensorVecFrameStack(make(3, 0), 3, order), VecFrameStack(make(3, 0), 3, order))


def test_the_axis_may_be_chosen_by_key() -> None:
    orders = {"picture": "first", "a_position": None}
    ours, theirs = (kind(CameraAndPosition(3, 0), 2, orders) for kind in (TensorVecFrameStack, VecFrameStack))
    assert_same_steps(ours, theirs)


@pytest.mark.parametrize("arguments", [(0, None), (2, "middle"), (2, {"position": "last"})])
def test_stacks_that_cannot_be_made_are_refused(arguments: tuple[int, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"n_stack=0|channels_order"):
        TensorVecFrameStack(DictPointMass(2, seed=0), *arguments)


def test_a_state_of_other_stacks_is_refused() -> None:
    state = play(TensorVecFrameStack(PointMass(3, seed=0), 3)).state_dict()
    for env in (TensorVecFrameStack(PointMass(3, seed=0), 2), TensorVecFrameStack(PointMass(2, seed=0), 3)):
        with pytest.raises(InvalidArgument, match=r"n_stack|the state is of 3"):
            env.load_state_dict(state)
    with pytest.raises(InvalidArgument, match="TensorVecFrameStack"):
        TensorVecMonitor(PointMass(3, seed=0)).load_state_dict(state)


# ------------------------------------------------ SB3's wrappers around the NumPy face


def mujoco_env(n_envs: int = 3, seed: int = 0) -> TensorVecEnv:
    pytest.importorskip("mujoco.batch", reason="needs MuJoCo with batched simulation")
    from sb3_ppo_plus.envs.mujoco.vec_env import MujocoVecEnv

    return MujocoVecEnv("Hopper-v5", n_envs, seed=seed, n_threads=1, max_episode_steps=20)


@pytest.mark.parametrize("make", [mujoco_env, DictPointMass])
def test_sb3_wrappers_work_around_the_numpy_face(make: Any) -> None:
    env: Any = VecMonitor(VecCheckNan(VecFrameStack(VecNormalize(make(3, seed=0)), 2), raise_exception=True))
    assert not isinstance(env, TensorVecEnv) and not isinstance(env.venv, TensorVecEnvWrapper)
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    model = PPO(policy, env, n_steps=16, batch_size=48, n_epochs=1, device="cpu").learn(96)
    assert len(model.ep_info_buffer) >= 3
    assert env.get_attr("render_mode") == [None] * 3


@pytest.mark.parametrize("make", [PointMass, DictPointMass])
def test_wrappers_together_are_those_of_sb3_together(make: type[PointMass]) -> None:
    ours = TensorVecMonitor(TensorVecFrameStack(TensorVecNormalize(make(3, 0)), 2))
    assert_same_steps(ours, VecMonitor(VecFrameStack(VecNormalize(make(3, 0)), 2)))


def test_sb3_extracts_one_observation_of_a_dict() -> None:
    env = VecExtractDictObs(DictPointMass(3, seed=0), "position")
    assert env.reset().shape == (3, 1)
    last = [info.get("terminal_observation") for actions in actions_of(env, 20) for info in env.step(actions)[3]]
    assert {value.shape for value in last if value is not None} == {(1,)}


class Rhythms(PointMass):
    """Environment n asks for an action in every (n + 1)th step only."""

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensors(actions)
        self.count = getattr(self, "count", 0) + 1
        asks = th.tensor([self.count % (n + 1) == 0 for n in range(self.num_envs)])
        return step._replace(stats={**step.stats, "awaits_action": asks})


def test_statistics_are_of_what_agents_decide_on() -> None:
    """Observations that ask for nothing are old ones, and no time passes between a decision and its outcome."""
    env = TensorVecNormalize(Rhythms(3, seed=0), gamma=0.5)
    seen = [env.venv.reset_tensors().clone()]
    env.seed(0)
    first = env.reset_tensors()
    assert first.shape == seen[0].shape
    counted, returns, kept = [*env.get_original_obs_tensors().tolist()], [0.0] * 3, []
    for t in range(1, 13):
        step = env.step_tensors(th.ones(3, 1))
        rewards, ended = env.get_original_reward_tensors().tolist(), (step.terminated | step.truncated).tolist()
        for n in range(3):
            if t % (n + 1) == 0:
                counted.append(env.get_original_obs_tensors()[n].tolist())
            if t % (n + 1) == 0 or ended[n]:
                returns[n] = returns[n] * 0.5 + rewards[n]
                kept.append(returns[n])
            returns[n] = 0.0 if ended[n] else returns[n]
    np.testing.assert_allclose(env.obs_rms.mean, np.mean(counted, axis=0), atol=1e-3)
    np.testing.assert_allclose(env.ret_rms.mean, np.mean(kept), atol=1e-3)
