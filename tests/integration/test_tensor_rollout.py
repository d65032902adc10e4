"""The tensor rollout leaves behind what SB3's loop leaves behind: rows, advantages, statistics, callbacks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import Critic
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize
from toy_envs import DictPointMass, DiscretePointMass, PointMass, RecyclingPointMass

from sb3_ppo_plus import PPOPlus, actors, rollout, rollout_ends
from sb3_ppo_plus.buffers import INVALID_ROW, RowsMixin
from sb3_ppo_plus.callback_locals import LazyCallbacks
from sb3_ppo_plus.envs import TensorVecFrameStack, TensorVecMonitor, TensorVecNormalize
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.profiling import Profile
from sb3_ppo_plus.types import ArrayStep, TensorStep

# After 39 steps Hasty cuts all episodes off, in the last step of a rollout.
N, T = 3, 39


class Sb3Rollout(PPOPlus):
    """The same algorithm with SB3's loop, on the NumPy face of the environment."""

    def collect_rollouts(self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        completed = OnPolicyAlgorithm.collect_rollouts(self, env, callback, rollout_buffer, n_rollout_steps)
        rollout_ends.fill_gaps(self, rollout_buffer)
        return completed

    _init_callback = OnPolicyAlgorithm._init_callback


# ------------------------------------------------ environments


class Pushed(PointMass):
    """Point masses with any action space: what was given is summed up to a force."""

    def __init__(self, action_space: spaces.Space, n_envs: int = N, **kwargs: Any) -> None:
        self.space = action_space
        super().__init__(n_envs, seed=4, **kwargs)

    def make_action_space(self) -> spaces.Space:
        return self.space

    def force(self, actions: th.Tensor) -> th.Tensor:
        assert actions.shape == (self.num_envs, *(self.space.shape or ()))
        return actions.double().reshape(self.num_envs, -1).sum(1)


class Floor(PointMass):
    """Point masses that see only which third of the line they are on, as one whole number."""

    def make_observation_space(self) -> spaces.Space:
        return spaces.Discrete(3)

    def observe(self) -> th.Tensor:
        return (self.x > -0.3).long() + (self.x > 0.3).long()


class DoublePrecision(PointMass):
    def make_observation_space(self) -> spaces.Space:
        return spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def observe(self) -> th.Tensor:
        return th.stack((self.x, self.v), dim=1)


class Mixed(PointMass):
    """A Dict with a whole number and a small table beside a vector."""

    def make_observation_space(self) -> spaces.Space:
        table = spaces.Box(-np.inf, np.inf, (2, 1), np.float32)
        return spaces.Dict({"side": spaces.Discrete(2), "table": table, "x": spaces.Box(-np.inf, np.inf, (1,))})

    def observe(self) -> dict[str, th.Tensor]:
        table = th.stack((self.x, self.v), dim=1)[:, :, None].float()
        return {"side": (self.x > 0).long(), "table": table, "x": self.x[:, None].float()}


class Judged(PointMass):
    """Says which episodes succeeded and in which steps the agent did not act; may end by task and time at once."""

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensors(actions)
        invalid = (step.stats["speed"] > 0.2).double()
        success = step.final_obs[:, 0].abs() < 0.5
        return step._replace(stats={**step.stats, "is_success": success, INVALID_ROW: invalid})


class Hasty(PointMass):
    """Cut off after three steps in all environments at once, which for some is also the end of the task."""

    def __init__(self) -> None:
        super().__init__(N, seed=4, limit=3)

    def move(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        rewards, _ = super().move(actions)
        return rewards, (self.lengths == 2) & (self.x > 0.0)


class RecyclingArrays(PointMass):
    """Computes in arrays, and uses again what the receiver is not to keep."""

    final_obs: np.ndarray | None = None

    def step_arrays(self, actions: np.ndarray) -> ArrayStep:
        step = super().step_arrays(actions)
        if self.final_obs is None:
            self.final_obs, self.stats = step.final_obs, step.stats
        self.final_obs[...] = step.final_obs
        for name, value in step.stats.items():
            self.stats[name][...] = value
        return step._replace(final_obs=self.final_obs, stats=self.stats)


ENVS: dict[str, Callable[[], TensorVecEnv]] = {
    "box": lambda: PointMass(N, seed=4),
    "one environment": lambda: PointMass(1, seed=4),
    "dict": lambda: DictPointMass(N, seed=4),
    "dict of many kinds": lambda: Mixed(N, seed=4),
    "discrete": lambda: DiscretePointMass(N, seed=4),
    "float64 observations": lambda: DoublePrecision(N, seed=4),
    "discrete observations": lambda: Floor(N, seed=4),
    "narrow box": lambda: Pushed(spaces.Box(-0.1, 0.3, (2,))),
    "table of actions": lambda: Pushed(spaces.Box(-0.4, 0.4, (2, 2))),
    "float64 actions": lambda: Pushed(spaces.Box(-0.3, 0.3, (1,), np.float64)),
    "integer actions": lambda: Pushed(spaces.Box(-1, 1, (2,), np.int64)),
    "multidiscrete": lambda: Pushed(spaces.MultiDiscrete([3, 2])),
    "multibinary": lambda: Pushed(spaces.MultiBinary(3)),
    "recycled memory": lambda: RecyclingPointMass(N, seed=4),
    "success and absence": lambda: Judged(N, seed=4),
    "ends of all kinds at once": Hasty,
    "normalized": lambda: TensorVecNormalize(PointMass(N, seed=4), gamma=0.9),
    "normalized parts": lambda: TensorVecNormalize(DictPointMass(N, seed=4), norm_obs_keys=["velocity"]),
    "monitored and stacked": lambda: TensorVecFrameStack(TensorVecMonitor(RecyclingPointMass(N, seed=4)), 3),
}


def make_model(kind: type[PPOPlus], env: Any, **overrides: Any) -> Any:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    arguments: dict[str, Any] = {"n_steps": T, "batch_size": 39, "n_epochs": 1, "seed": 0, "device": "cpu"}
    arguments.update(policy_kwargs={"net_arch": [16]}, gamma=0.9)
    return kind(overrides.pop("policy", policy), env, **{**arguments, **overrides})


def roll(model: Any, callback: Any = None, rollouts: int = 1) -> bool:
    """Rollouts without updates between them, in an order that learn() has too."""
    _, callback = model._setup_learn(10**6, callback, reset_num_timesteps=model.num_timesteps == 0)
    callback.on_training_start({"total_timesteps": 10**6}, {})
    result = [model.collect_rollouts(model.env, callback, model.rollout_buffer, T) for _ in range(rollouts)]
    return result[-1]


def both(name: str = "box", callback: Callable[[], Any] = lambda: None, rollouts: int = 2, **overrides: Any) -> Any:
    """The same rollouts, on tensors and in SB3's loop."""
    models = []
    for kind in (PPOPlus, Sb3Rollout):
        model = make_model(kind, ENVS[name](), **overrides)  # this seeds the generators that the rollout draws from
        # An actor whose actions matter, far from the tiny weights that it begins with.
        with th.no_grad():
            model.policy.action_net.weight.mul_(30.0)
        roll(model, callback(), rollouts)
        models.append(model)
    return models


def columns(buffer: Any) -> dict[str, Any]:
    names = ("actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns", "valid")
    found = {name: getattr(buffer, name) for name in names}
    parts = buffer.observations if isinstance(buffer.observations, dict) else {"": buffer.observations}
    return found | {f"observations {key}": value for key, value in parts.items()}


def assert_same_rollout(ours: Any, theirs: Any, exact: bool = False) -> None:
    one, other = columns(ours.rollout_buffer), columns(theirs.rollout_buffer)
    for name in other:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape, name
        tolerance = 2e-4 if not exact and np.issubdtype(one[name].dtype, np.floating) else 0.0
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert ours.rollout_buffer.full and ours.rollout_buffer.pos == theirs.rollout_buffer.pos
    last, expected = ours._last_obs, theirs._last_obs
    for key in expected if isinstance(expected, dict) else [...]:
        np.testing.assert_allclose(last[key], expected[key], rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(ours._last_episode_starts, theirs._last_episode_starts)
    assert ours.num_timesteps == theirs.num_timesteps
    assert_same_sights(ours.env.reset_infos, theirs.env.reset_infos)
    assert_same_episodes(ours, theirs)


def assert_same_episodes(ours: Any, theirs: Any) -> None:
    assert len(ours.ep_info_buffer) == len(theirs.ep_info_buffer)
    for one, other in zip(ours.ep_info_buffer, theirs.ep_info_buffer, strict=True):
        assert list(one) == list(other) and one["l"] == other["l"]
        assert one["r"] == pytest.approx(other["r"], rel=1e-4, abs=1e-4)
    assert list(ours.ep_success_buffer) == list(theirs.ep_success_buffer)


# ------------------------------------------------ rows and advantages


@pytest.mark.parametrize("name", ENVS)
def test_it_fills_the_buffer_as_sb3_does(name: str) -> None:
    ours, theirs = both(name)
    assert_same_rollout(ours, theirs)
    assert 0.05 < ours.rollout_buffer.episode_starts.mean() < 0.5, "episodes end, and not at once"


@pytest.mark.parametrize("name", ["box", "discrete", "multidiscrete", "multibinary"])
def test_it_leaves_torchs_generator_where_sb3_leaves_it(name: str) -> None:
    states = []
    for kind in (PPOPlus, Sb3Rollout):
        roll(make_model(kind, ENVS[name]()))
        states.append(th.get_rng_state())
    assert th.equal(*states)


class Forgetful(FlattenExtractor):
    """Drops half of what it sees, while training."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.nn.functional.dropout(super().forward(observations), training=self.training)


def own_policy(name: str) -> dict[str, Any]:
    """What only PolicyActor can do."""
    return {
        "custom policy": {"policy": Critic, "policy_kwargs": {"opinion": 2.0}},
        "gSDE": {"use_sde": True},
        "gSDE with new noise": {"use_sde": True, "sde_sample_freq": 4},
        "squashed": {"use_sde": True, "policy_kwargs": {"squash_output": True, "net_arch": [8]}},
        "dropout": {"policy_kwargs": {"features_extractor_class": Forgetful}},
        "unknown activation": {"policy_kwargs": {"activation_fn": th.nn.GELU}},
    }[name]


@pytest.mark.parametrize(
    "name", ["custom policy", "gSDE", "gSDE with new noise", "squashed", "dropout", "unknown activation"]
)
def test_where_the_policy_itself_is_asked_rows_equal_sb3s_to_the_bit(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(rollout_ends, "_CHUNK", 1)  # SB3 asks the critic about one observation at a time
    for env in ("box", "narrow box", "ends of all kinds at once"):
        assert_same_rollout(*both(env, **own_policy(name)), exact=True)


@pytest.mark.parametrize("name", ENVS)
def test_sb3s_own_policy_could_be_asked_as_well(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(rollout, "make_actor", lambda policy, n_envs: actors.PolicyActor(policy))
    monkeypatch.setattr(rollout_ends, "_CHUNK", 1)
    assert_same_rollout(*both(name), exact=True)


def test_truncated_episodes_are_worth_what_the_critic_expects_after_them() -> None:
    # A critic of constant opinion 2 and gamma 0.9: a cut adds 1.8 to the reward of its step, an end adds nothing.
    models = []
    for opinion in (2, 0):
        models.append(make_model(PPOPlus, Hasty(), policy=Critic, policy_kwargs={"opinion": opinion}))
        roll(models[-1])
    added = models[0].rollout_buffer.rewards - models[1].rollout_buffer.rewards
    ends = np.concatenate([models[0].rollout_buffer.episode_starts[1:] > 0, models[0]._last_episode_starts[None]])
    cut_off = np.isclose(added, 1.8, atol=1e-6)
    assert np.array_equal(added[~cut_off], np.zeros((~cut_off).sum(), np.float32))
    assert 5 < cut_off.sum() < ends.sum() == N * (T // 3)
    assert ends[cut_off].all()
    # All of them ended in the last step: what they begin with is known as well.
    assert [info["start"] for info in models[0].env.reset_infos] == models[0].env.x.tolist()


def test_the_critic_is_asked_once_about_all_truncations_in_bounded_pieces(monkeypatch: Any) -> None:
    sizes = []

    class Watched(ActorCriticPolicy):
        def predict_values(self, obs: Any) -> th.Tensor:
            sizes.append(len(obs))
            return super().predict_values(obs)

    whole = make_model(PPOPlus, Hasty(), policy=Watched)
    roll(whole)
    total, last = sizes
    assert total > 8 and last == N
    monkeypatch.setattr(rollout_ends, "_CHUNK", 5)
    sizes.clear()
    cut = make_model(PPOPlus, Hasty(), policy=Watched)
    roll(cut)
    assert sizes == [5] * (total // 5) + [total % 5] * bool(total % 5) + [N]
    np.testing.assert_allclose(cut.rollout_buffer.rewards, whole.rollout_buffer.rewards, rtol=1e-6)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_advantages_equal_sb3s_to_the_bit(gae_lambda: float) -> None:
    rng = np.random.default_rng(0)
    space = spaces.Box(-1, 1, (1,))
    buffers = [RolloutBuffer(50, space, space, "cpu", gae_lambda, 0.97, n_envs=5) for _ in range(2)]
    numbers = {name: rng.normal(size=(50, 5)).astype(np.float32) for name in ("rewards", "values")}
    numbers["episode_starts"] = (rng.random((50, 5)) < 0.2).astype(np.float32)
    last_values, dones = rng.normal(size=5).astype(np.float32), np.array([True, False, False, True, False])
    for buffer in buffers:
        vars(buffer).update({name: array.copy() for name, array in numbers.items()})
    rollout_ends.compute_advantages(buffers[0], last_values, dones)
    buffers[1].compute_returns_and_advantage(th.as_tensor(last_values)[:, None], dones)
    np.testing.assert_array_equal(buffers[0].advantages, buffers[1].advantages)
    np.testing.assert_array_equal(buffers[0].returns, buffers[1].returns)


def test_recomputed_advantages_find_the_same_truncations() -> None:
    ours, theirs = both("ends of all kinds at once", recompute_advantages=True)
    assert_same_rollout(ours, theirs)
    found, expected = ours.rollout_buffer.truncations, theirs.rollout_buffer.truncations
    assert [(cut.step, cut.env) for cut in found] == [(cut.step, cut.env) for cut in expected] != []
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.final_obs, other.final_obs, rtol=1e-4, atol=1e-5)
    assert both("dict", recompute_advantages=False)[0].rollout_buffer.truncations == []


def test_final_observations_of_recycled_memory_are_kept() -> None:
    models = []
    for kind in (PointMass, RecyclingPointMass, RecyclingArrays):
        models.append(make_model(PPOPlus, kind(N, seed=4), recompute_advantages=True))
        roll(models[-1])
    cuts = [[cut.final_obs for cut in model.rollout_buffer.truncations] for model in models]
    assert len(cuts[0]) > 1
    for other in (1, 2):
        assert_same_rollout(models[0], models[other], exact=True)
        np.testing.assert_array_equal(cuts[0], cuts[other])


def test_rows_in_which_the_agent_did_not_act_are_marked() -> None:
    ours, theirs = both("success and absence")
    assert 0 < (~ours.rollout_buffer.valid).sum() < N * T
    np.testing.assert_array_equal(ours.rollout_buffer.valid, theirs.rollout_buffer.valid)
    assert 0 < sum(ours.ep_success_buffer) < len(ours.ep_success_buffer)


# ------------------------------------------------ buffers of users


class Noting(RolloutBuffer):
    """Keeps what it was given."""

    def reset(self) -> None:
        super().reset()
        self.given: list[tuple[Any, ...]] = []

    def add(self, *args: Any) -> None:
        self.given.append(copy.deepcopy(args))
        super().add(*args)


class DictNoting(Noting, DictRolloutBuffer):
    pass


@pytest.mark.parametrize(
    ("name", "buffer_class"),
    [
        ("box", Noting),
        ("discrete", Noting),
        ("table of actions", Noting),
        ("multidiscrete", Noting),
        ("multibinary", Noting),
        ("ends of all kinds at once", Noting),
        ("dict", DictNoting),
    ],
)
def test_an_add_of_ones_own_is_called_with_what_sb3_gives_it(name: str, buffer_class: Any) -> None:
    ours, theirs = both(name, rollout_buffer_class=buffer_class)
    assert_same_rollout(ours, theirs)
    for one, other in zip(ours.rollout_buffer.given, theirs.rollout_buffer.given, strict=True):
        for a, b in zip(one, other, strict=True):
            assert type(a) is type(b)
            for key in b if isinstance(b, dict) else [...]:
                assert (a[key].shape, a[key].dtype) == (b[key].shape, b[key].dtype)
                np.testing.assert_allclose(a[key], b[key], rtol=2e-4, atol=2e-4)


def test_advantages_of_ones_own_are_computed_by_their_owner() -> None:
    class MonteCarlo(RolloutBuffer):
        def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
            assert last_values.shape == (N, 1) and dones.dtype == bool
            self.returns = np.cumsum(self.rewards[::-1], axis=0)[::-1]
            self.advantages = self.returns - self.values

    ours, theirs = both("ends of all kinds at once", rollout_buffer_class=MonteCarlo)
    assert_same_rollout(ours, theirs)
    assert np.array_equal(ours.rollout_buffer.returns[-1], ours.rollout_buffer.rewards[-1])


def test_a_buffer_without_this_packages_rows_is_filled_too() -> None:
    model = make_model(PPOPlus, Judged(N, seed=4), recompute_advantages=True)
    plain = RolloutBuffer(T, model.observation_space, model.action_space, "cpu", 0.95, 0.9, N)
    _, callback = model._setup_learn(100)
    assert model.collect_rollouts(model.env, callback, plain, T)
    assert plain.full and np.abs(plain.advantages).min() > 0


# ------------------------------------------------ NaN


def test_an_environment_that_gives_nan_is_noticed_at_the_next_action(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch.compile switches the checks of distributions off, for the whole process.
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", True)

    class Broken(PointMass):
        def observe(self) -> th.Tensor:
            return super().observe() / (0.0 if self.lengths.max() == 5 else 1.0) * 0.0

    for kind in (PPOPlus, Sb3Rollout):
        model = make_model(kind, Broken(N, seed=4))
        with pytest.raises(ValueError, match="to satisfy the constraint"):
            roll(model)
        assert model.rollout_buffer.pos == 5


# ------------------------------------------------ callbacks


SHOWN = {"n_rollout_steps", "n_steps", "obs_tensor", "actions", "values", "log_probs"}
SHOWN |= {"clipped_actions", "new_obs", "rewards", "dones", "infos"}
VARIABLES = SHOWN | {"self", "env", "callback", "rollout_buffer"}


class Recording(BaseCallback):
    """Writes down what it sees at each event, with one of the ways to read it."""

    def __init__(self, read: Callable[[Any], dict[str, Any]] = dict) -> None:
        super().__init__()
        self.read = read
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def note(self, event: str) -> None:
        found = self.read(self.locals)
        self.seen.append((event, {name: copy.deepcopy(found[name]) for name in SHOWN if name in found}))

    def _on_training_start(self) -> None:
        assert self.locals["total_timesteps"] > 0
        self.note("training start")

    def _on_rollout_start(self) -> None:
        self.note("rollout start")

    def _on_step(self) -> bool:
        assert VARIABLES <= set(self.read(self.locals))
        assert self.locals["env"] is self.training_env and self.locals["self"] is self.model
        assert self.locals["rollout_buffer"] is self.model.rollout_buffer
        self.note("step")
        return True

    def _on_rollout_end(self) -> None:
        self.note("rollout end")

    def _on_training_end(self) -> None:
        self.note("training end")


def assert_same_sights(one: Any, other: Any, where: str = "") -> None:
    if isinstance(other, dict):
        assert set(one) == set(other), where
        for name in set(other) - {"t"}:  # the wall clock
            assert_same_sights(one[name], other[name], f"{where} {name}")
    elif isinstance(other, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_sights(a, b, f"{where} {index}")
    elif isinstance(other, (np.ndarray, th.Tensor)):
        assert type(one) is type(other) and one.shape == other.shape, where
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=2e-4, atol=2e-4, err_msg=where)
    elif isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4), where
    else:
        assert one == other, where


@pytest.mark.parametrize("name", ["table of actions", "dict", "recycled memory", "ends of all kinds at once"])
def test_callbacks_see_sb3s_local_variables(name: str) -> None:
    seen = []
    for kind in (PPOPlus, Sb3Rollout):
        callback = Recording()
        make_model(kind, ENVS[name]()).learn(2 * N * T, callback)
        assert callback.n_calls == 2 * T
        seen.append(callback.seen)
    ours, theirs = seen
    assert [event for event, _ in ours] == [event for event, _ in theirs]
    assert len(ours) == 2 * T + 6
    for (event, one), (_, other) in zip(ours, theirs, strict=True):
        assert_same_sights(one, other, event)


@pytest.mark.parametrize(
    "read",
    [
        dict,
        lambda found: {**found},
        lambda found: {name: found[name] for name in VARIABLES if name in found},
        lambda found: {name: found.get(name) for name in VARIABLES & set(found.keys())},
    ],
)
def test_however_they_are_read(read: Any) -> None:
    callback = Recording(read)
    make_model(PPOPlus, PointMass(N, seed=4)).learn(N * T, CallbackList([callback]))
    steps = [seen for event, seen in callback.seen if event == "step"]
    assert [seen["n_steps"] for seen in steps] == list(range(T))
    assert all(len(seen["infos"]) == N for seen in steps)


def test_variables_that_nobody_reads_are_not_made(monkeypatch: Any) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("infos of all environments were made")

    monkeypatch.setattr(TensorVecEnv, "make_infos", refuse)
    model = make_model(PPOPlus, PointMass(N, seed=4))
    seen: list[int] = []
    callback = [lambda found, _: seen.append(found["n_steps"]) is None][0]
    model.learn(N * T, callback)
    assert seen == list(range(T)) and len(model.ep_info_buffer) > 3


def test_what_callbacks_change_in_place_counts() -> None:
    class Shaping(BaseCallback):
        def _on_step(self) -> bool:
            self.locals["rewards"][:] = self.locals["n_steps"]
            for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
                if done:
                    info["is_success"] = True
            return True

        def _on_rollout_end(self) -> None:
            self.locals["rollout_buffer"].advantages[:] = 7.0

    ours, theirs = both("narrow box", Shaping, rollouts=1)
    assert_same_rollout(ours, theirs)
    assert (ours.rollout_buffer.advantages == 7.0).all()
    assert list(ours.ep_success_buffer) == [True] * len(ours.ep_info_buffer) != []


def test_a_callback_that_says_no_ends_the_rollout_before_the_row_counts() -> None:
    class Stopping(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 15

    states = []
    for kind in (PPOPlus, Sb3Rollout):
        model = make_model(kind, PointMass(N, seed=4))
        assert roll(model, Stopping()) is False
        buffer = model.rollout_buffer
        states.append((buffer.pos, buffer.full, model.num_timesteps, buffer.rewards.copy(), model._last_obs))
        assert_same_sights(list(buffer.advantages), [np.zeros(N)] * T)
    assert states[0][:3] == states[1][:3] == (14, False, 15 * N)
    np.testing.assert_allclose(states[0][4], states[1][4], rtol=1e-4, atol=1e-5)
    # Rewards of steps before the stop, without what truncated episodes would still bring.
    cut = states[0][3] != 0
    assert cut[:14].all() and not cut[14:].any()


def test_sb3s_callbacks_work_together(tmp_path: Path) -> None:
    model = make_model(PPOPlus, TensorVecNormalize(PointMass(N, seed=4)))
    calls: list[int] = []
    every = EveryNTimesteps(5 * N, CheckpointCallback(1, str(tmp_path), save_vecnormalize=True))
    evaluation = EvalCallback(
        TensorVecNormalize(PointMass(1, seed=9), training=False),
        n_eval_episodes=2,
        eval_freq=10,
        log_path=str(tmp_path),
    )
    evaluation.callback = Recording()
    counting = ConvertCallback(lambda *_: calls.append(1) is None)
    limit = StopTrainingOnMaxEpisodes(20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an evaluation without a Monitor, of an environment that counts by itself
        model.learn(20 * N * T, [every, CallbackList([evaluation]), limit, counting])
    assert limit.n_episodes >= 20 * N
    assert model.num_timesteps == len(calls) * N < 20 * N * T
    assert len(list(tmp_path.glob("rl_model_*_steps.zip"))) == len(calls) // 5
    assert len(list(tmp_path.glob("rl_model_vecnormalize_*.pkl"))) == len(calls) // 5
    assert evaluation.callback.n_calls == evaluation.n_calls // 10 > 1
    reopened = PPOPlus.load(next(tmp_path.glob("rl_model_*_steps.zip")), device="cpu")
    assert isinstance(reopened, PPOPlus)


def test_the_progress_bar_counts_every_step() -> None:
    pytest.importorskip("tqdm")
    pytest.importorskip("rich")
    model = make_model(PPOPlus, PointMass(N, seed=4))
    bars: list[Any] = []

    def look(_locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        bars[:] = [callback for callback in _locals["callback"].callbacks if isinstance(callback, ProgressBarCallback)]
        return True

    model.learn(2 * N * T, look, progress_bar=True)
    assert bars[0].pbar.n == 2 * N * T


def test_the_callback_that_callbacks_see_is_the_users() -> None:
    seen: list[Any] = []
    callback = CallbackList([Recording()])

    class Looking(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(self.locals["callback"])
            return True

    callback.callbacks.append(Looking())
    make_model(PPOPlus, PointMass(N, seed=4)).learn(N * T, callback)
    assert all(found is callback for found in seen) and not isinstance(callback, LazyCallbacks)


# ------------------------------------------------ the profile


def test_sections_of_the_profile_add_up_and_the_one_before_goes_on() -> None:
    model = make_model(PPOPlus, PointMass(N, seed=4))
    switches: list[str] = []

    class Watched(Profile):
        def switch(self, section: str) -> str:
            switches.append(section)
            return super().switch(section)

    model.profile = Watched()
    model.profile.switch("mine")
    model._setup_learn(100)
    switches.clear()
    roll(model)
    sections = ["policy", "env", "callbacks", "buffer"] * T
    assert switches == ["callbacks", "policy", *sections, "advantages", "callbacks", "mine"]
    model.profile.switch("mine")
    with pytest.raises(RuntimeError, match="no"):
        roll(model, _raise)
    assert model.profile.switch("after") == "mine"
    assert set(model.profile.take()) >= {"policy", "env", "callbacks", "buffer", "advantages", "mine"}


def _raise(*_: Any) -> bool:
    raise RuntimeError("no")


# ------------------------------------------------ SB3's wrappers


def test_wrappers_of_sb3_that_hide_the_tensor_face_are_named() -> None:
    class Own(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            return self.venv.step_wait()

    inner = TensorVecMonitor(PointMass(2))
    expectations = {
        r"VecNormalize \(use TensorVecNormalize\)": VecNormalize(inner),
        r"VecMonitor \(use TensorVecMonitor\)": VecMonitor(inner),
        r"VecFrameStack \(use TensorVecFrameStack\), Own \(drop it": VecFrameStack(Own(inner), 2),
    }
    for message, env in expectations.items():
        with pytest.warns(UserWarning, match=f"TensorVecMonitor take SB3's slower way because of {message}") as caught:
            rollout.warn_about_numpy_wrapper(env)
        assert len(caught) == 1


def test_other_environments_are_not_warned_about() -> None:
    from stable_baselines3.common.env_util import make_vec_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env in (PointMass(2), TensorVecNormalize(PointMass(2)), VecNormalize(make_vec_env("CartPole-v1"))):
            rollout.warn_about_numpy_wrapper(env)


# ------------------------------------------------ robots


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "Hopper-v5"])
def test_robots_are_rolled_out_as_in_sb3(task: str) -> None:
    pytest.importorskip("mujoco.batch")
    from sb3_ppo_plus.envs import MujocoVecEnv

    models = []
    for kind in (PPOPlus, Sb3Rollout):
        env = MujocoVecEnv(task, n_envs=4, seed=0, n_threads=1, max_episode_steps=25)
        models.append(make_model(kind, env, policy_kwargs={}))
        roll(models[-1], rollouts=2)
    first, second = (columns(model.rollout_buffer) for model in models)
    for name in second:
        np.testing.assert_allclose(first[name], second[name], rtol=2e-3, atol=2e-3, err_msg=name)
    assert_same_episodes(*models)
    assert len(models[0].ep_info_buffer) >= 4
    assert isinstance(actors.make_actor(models[0].policy, 4), actors.ArrayActor)
    assert isinstance(models[0].rollout_buffer, RowsMixin)


def test_the_update_after_it_is_sb3s(monkeypatch: Any) -> None:
    """Where rows are equal to the bit but for truncations, so is what is learned, to rounding."""
    trained = []
    for kind in (PPOPlus, Sb3Rollout):
        trained.append(make_model(kind, PointMass(N, seed=4)).learn(3 * N * T).policy.state_dict())
    for name in trained[1]:
        np.testing.assert_allclose(trained[0][name], trained[1][name], rtol=1e-3, atol=1e-4)
