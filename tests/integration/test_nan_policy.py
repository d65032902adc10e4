"""NaN and infinity in every place that a training has, and what each policy makes of it."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import slow_but
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import resume, save_checkpoint
from sb3_ppo_plus.envs import ProcessVecEnv, TensorVecNormalize
from sb3_ppo_plus.errors import InvalidArgument, NonFinite
from sb3_ppo_plus.types import TensorStep
from tests.helpers import assert_same_tensors, learn_and_record, tensors_of
from tests.toy_envs import PointMass

NAN, INF = float("nan"), float("inf")
SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}


class Walk(gym.Env):
    """
    A random walk of ten steps whose ``bad_step`` counted over its life gives what it should not.

    :param place: ``observation``, ``final observation`` or ``reward``
    :param value: what it gives there
    :param bad_steps: when
    :param ends: whether the step ends its episode by itself
    :param mapping: whether observations are a mapping
    """

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(
        self,
        place: str = "",
        value: float = NAN,
        bad_steps: Callable[[int], bool] = lambda count: False,
        ends: bool = False,
        mapping: bool = False,
    ) -> None:
        self.place, self.value, self.bad_steps, self.ends, self.mapping = place, value, bad_steps, ends, mapping
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = spaces.Dict({"near": box, "far": box}) if mapping else box
        self.count = self.length = self.resets = 0

    def _observe(self, broken: bool = False) -> Any:
        obs = self.np_random.normal(size=3).astype(np.float32)
        if broken:
            obs[1] = self.value
        return {"near": obs, "far": np.zeros(3, np.float32)} if self.mapping else obs

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.length, self.resets = 0, self.resets + 1
        return self._observe(self.place == "first observation" and self.bad_steps(self.count)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count, self.length = self.count + 1, self.length + 1
        bad = self.bad_steps(self.count)
        truncated = self.length == 10 or (bad and (self.ends or self.place == "final observation"))
        obs = self._observe(bad and self.place.endswith("observation") and self.place != "first observation")
        return obs, self.value if bad and self.place == "reward" else 1.0, False, truncated, {}


class Endless(Walk):
    """Its episodes never end by themselves."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, False, info


def envs(n_envs: int = 2, bad_env: int = 1, kind: type[VecEnv] = DummyVecEnv, **kwargs: Any) -> VecEnv:
    makers = [
        partial(_monitored, kwargs if i == bad_env else {"mapping": kwargs.get("mapping", False)})
        for i in range(n_envs)
    ]
    return kind(makers)  # type: ignore[call-arg]


def _monitored(kwargs: dict[str, Any]) -> gym.Env:
    return Monitor(Walk(**kwargs))


def at(*steps: int) -> Callable[[int], bool]:
    return partial(_among, steps)


def _among(steps: tuple[int, ...], count: int) -> bool:
    return count in steps


class Statistics(BaseCallback):
    """Keeps what a normalizer knows after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes] = []

    def _on_step(self) -> bool:
        normalizer = self.model.get_vec_normalize_env()
        self.kept.append(pickle.dumps((normalizer.obs_rms, normalizer.ret_rms)))
        return True


# ------------------------------------------------ what comes from environments


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", ["observation", "final observation", "reward"])
@pytest.mark.parametrize("mapping", [False, True])
def test_the_error_names_environment_step_key_and_value_before_anything_moved(
    place: str, value: float, mapping: bool
) -> None:
    env = VecNormalize(
        envs(place=place, value=value, bad_steps=at(21), mapping=mapping), norm_obs_keys=["near"] if mapping else None
    )
    model = PPOPlus("MultiInputPolicy" if mapping else "MlpPolicy", env, **SMALL)
    statistics = Statistics()
    updates = tensors_after_each_update(model)
    with pytest.raises(NonFinite) as caught:
        model.learn(64, callback=statistics)
    error = caught.value
    assert (error.place, error.env, error.step) == (place, 1, 2 * 20)
    assert np.array_equal(error.value, value, equal_nan=True)
    expected = {"reward": "", "observation": "[1]", "final observation": "[1]"}[place]
    assert error.key == ("['near']" + expected if mapping and expected else expected)
    text = str(error)
    assert all(part in text for part in (place, "environment 1", str(value), "timestep 40", "nan_policy='quarantine'"))
    # One update was made, before the step; nothing has moved since.
    assert len(updates) == 1
    assert all(th.equal(a, b) for a, b in zip(updates[0].values(), tensors_of(model).values(), strict=True))
    assert pickle.dumps((env.obs_rms, env.ret_rms)) == statistics.kept[-1]


def tensors_after_each_update(model: PPOPlus) -> list[dict[str, th.Tensor]]:
    kept: list[dict[str, th.Tensor]] = []
    train = model.train

    def wrapped() -> None:
        train()
        kept.append({name: tensor.clone() for name, tensor in tensors_of(model).items()})

    model.train = wrapped  # type: ignore[method-assign]
    return kept


@pytest.mark.parametrize("kind", slow_but([DummyVecEnv], [DummyVecEnv, ProcessVecEnv]))
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("place", ["observation", "final observation", "reward"])
def test_quarantine_resets_the_environment_and_learns_nothing_from_the_episode(
    place: str, ends: bool, kind: type[VecEnv]
) -> None:
    env = VecNormalize(envs(kind=kind, place=place, bad_steps=at(5, 21), ends=ends))
    model = PPOPlus("MlpPolicy", env, nan_policy="quarantine", **SMALL)
    seen: list[tuple[int, Any, Any]] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            if "quarantined" in self.locals["infos"][1]:
                seen.append((self.num_timesteps, self.locals["dones"].copy(), dict(self.locals["infos"][1])))
            return True

    valid: list[np.ndarray] = []
    train = model.train

    def wrapped() -> None:
        valid.append(model.rollout_buffer.valid.copy())
        train()

    model.train = wrapped  # type: ignore[method-assign]
    logs = learn_and_record(model, 64, callback=Look())
    env.close()
    assert [step for step, _, _ in seen] == [10, 42]
    assert all(done[1] and not done[0] for _, done, _ in seen)
    told = "final observation" if ends and place == "observation" else place
    assert all(info["quarantined"].startswith(told) and "terminal_observation" not in info for _, _, info in seen)
    assert all("episode" not in info for _, _, info in seen)
    # The row of the lost outcome does not count; the rows before it rest on the critic.
    assert [np.argwhere(~rows).tolist() for rows in valid] == [[[4, 1]], [[4, 1]]]
    assert [log.get("rollout/quarantined") for log in logs[:2]] == [1, 2]
    assert all(bool(th.isfinite(tensor).all()) for tensor in tensors_of(model).values())
    assert np.isfinite(env.obs_rms.mean).all() and np.isfinite(env.ret_rms.var).all()


def test_quarantine_goes_on_from_a_fresh_episode() -> None:
    env = envs(place="observation", bad_steps=at(5))
    PPOPlus("MlpPolicy", env, nan_policy="quarantine", **SMALL).learn(32)
    healthy, broken = env.get_attr("resets")
    # Steps 10 end episodes of the healthy one; 5 and then 15 those of the other.
    assert (healthy, broken) == (2, 3)
    assert env.get_attr("length") == [6, 1]


@pytest.mark.parametrize("policy", ["raise", "quarantine"])
def test_first_observations_are_looked_at_as_well(policy: str) -> None:
    env = VecNormalize(envs(place="first observation", bad_steps=at(0)))
    model = PPOPlus("MlpPolicy", env, nan_policy=policy, **SMALL)
    with pytest.raises(NonFinite, match=r"observation\[1\] of environment 1 is nan at timestep 0"):
        model.learn(32)
    assert np.array_equal(env.obs_rms.mean, np.zeros(3))


def test_an_environment_that_never_recovers_ends_the_training() -> None:
    model = PPOPlus(
        "MlpPolicy", envs(place="observation", bad_steps=lambda count: count > 4), nan_policy="quarantine", **SMALL
    )
    with pytest.raises(NonFinite, match="10 episodes of this environment ended like this shortly one after the other"):
        model.learn(64)
    assert model.nonfinite_counts["quarantined"] == 11


def test_an_environment_that_fails_now_and_then_may_do_so_for_ever() -> None:
    bad = {"place": "observation", "bad_steps": partial(_every, 25)}
    env = DummyVecEnv([partial(Endless, **bad)])
    model = PPOPlus("MlpPolicy", env, nan_policy="quarantine", **SMALL).learn(25 * 16)
    assert model.nonfinite_counts["quarantined"] == 16


def _every(period: int, count: int) -> bool:
    return count % period == 0


def test_quarantine_of_an_environment_that_cannot_be_reset_alone_says_so() -> None:
    class Alone(DummyVecEnv):
        def env_method(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError("no")

    model = PPOPlus("MlpPolicy", envs(kind=Alone, place="reward", bad_steps=at(3)), nan_policy="quarantine", **SMALL)
    with pytest.raises(NonFinite, match="cannot be reset alone: no"):
        model.learn(32)


@pytest.mark.parametrize("policy", ["raise", "quarantine"])
def test_actions_that_are_not_finite_never_reach_an_environment(policy: str) -> None:
    env = envs()
    model = PPOPlus("MlpPolicy", env, nan_policy=policy, **SMALL)

    class Spoil(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 3:
                forward = self.model.policy.forward
                nan = lambda *args, **kwargs: (forward(*args, **kwargs)[0] * NAN, *forward(*args, **kwargs)[1:])  # noqa: E731
                self.model.policy.forward = nan
            return True

    with pytest.raises(NonFinite, match=r"action\[0\] of environment 0 is nan at timestep 6: the policy gave it"):
        model.learn(32, callback=Spoil())
    assert env.get_attr("count") == [3, 3]


def test_afterwards_the_environments_are_as_before() -> None:
    for env in (envs(), PointMass(2), envs(place="reward", bad_steps=at(3))):
        model = PPOPlus("MlpPolicy", env, **SMALL)
        try:
            model.learn(32)
        except NonFinite:
            pass
        assert not {"reset", "step_async", "step_wait", "step_tensors", "step_arrays", "reset_tensors"} & set(vars(env))


class BrokenMass(PointMass):
    """A point mass whose sixth step gives what it should not."""

    def __init__(self, place: str, value: float) -> None:
        super().__init__(3, seed=0)
        self.place, self.value, self.steps = place, value, 0

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensors(actions)
        self.steps += 1
        if self.steps != 6:
            return step
        if self.place == "reward":
            rewards = step.rewards.clone()
            rewards[2] = self.value
            return step._replace(rewards=rewards)
        spoilt = step.obs.clone()
        spoilt[2, 1] = self.value
        if self.place == "observation":
            return step._replace(obs=spoilt)
        return step._replace(final_obs=spoilt)


@pytest.mark.parametrize("wrapper", [None, TensorVecNormalize, VecNormalize])
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("place", ["observation", "final observation", "reward"])
@pytest.mark.filterwarnings("ignore:rollouts of BrokenMass")
def test_environments_with_a_tensor_face(place: str, value: float, wrapper: Any) -> None:
    inner = BrokenMass(place, value)
    model = PPOPlus("MlpPolicy", inner if wrapper is None else wrapper(inner), **SMALL)
    with pytest.raises(NonFinite) as caught:
        model.learn(96)
    assert (caught.value.place, caught.value.env, caught.value.step) == (place, 2, 15)
    if wrapper is not None:
        assert np.isfinite(model.env.obs_rms.mean).all() and np.isfinite(model.env.ret_rms.var).all()


def test_tensor_environments_cannot_be_quarantined_and_say_so() -> None:
    model = PPOPlus("MlpPolicy", BrokenMass("reward", NAN), nan_policy="quarantine", **SMALL)
    with pytest.raises(NonFinite, match="BrokenMass cannot reset one environment alone"):
        model.learn(96)


# ------------------------------------------------ what comes from the update


def spoil_gradients(model: PPOPlus, bad: Callable[[int], bool], value: float = NAN) -> list[int]:
    """Let some gradients of one parameter be what they should not."""
    calls = [0]

    def hook(slope: th.Tensor) -> th.Tensor:
        calls[0] += 1
        return slope * value if bad(calls[0]) else slope

    model.policy.action_net.bias.register_hook(hook)
    return calls


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_gradient_that_is_not_finite_leaves_the_policy_as_before_the_update(value: float) -> None:
    model = PPOPlus("MlpPolicy", envs(), **SMALL)
    updates = tensors_after_each_update(model)
    spoil_gradients(model, lambda call: call == 6, value)  # four steps an update
    with pytest.raises(NonFinite) as caught:
        model.learn(96)
    assert (caught.value.place, caught.value.key, caught.value.env) == ("gradient", "action_net.bias", None)
    assert "the policy is as before the update" in str(caught.value)
    assert len(updates) == 1
    assert all(th.equal(a, b) for a, b in zip(updates[0].values(), tensors_of(model).values(), strict=True))


def test_quarantine_skips_the_step_and_counts_it() -> None:
    model = PPOPlus("MlpPolicy", envs(), nan_policy="quarantine", **SMALL)
    spoil_gradients(model, lambda call: call in (2, 6, 7))
    logs = learn_and_record(model, 96)
    assert [log.get("train/skipped_steps") for log in logs[1:]] == [1, 3, 3]
    assert [log["train/gradient_steps"] for log in logs[1:]] == [3, 2, 4]
    assert model.num_gradient_steps == 9
    steps = {float(state["step"]) for state in model.policy.optimizer.state.values()}
    assert steps == {9.0}
    assert all(np.isfinite(log["train/loss"]) and np.isfinite(log["train/grad_norm"]) for log in logs[1:])
    assert model.learning_rate_factor == 1.0


def test_after_ten_in_a_row_the_policy_goes_back_and_the_rate_is_halved(caplog: pytest.LogCaptureFixture) -> None:
    settings = SMALL | {"n_epochs": 8}
    model = PPOPlus("MlpPolicy", envs(), nan_policy="quarantine", learning_rate=1e-3, **settings)
    updates = tensors_after_each_update(model)
    spoil_gradients(model, lambda call: 16 + 3 < call <= 16 + 3 + 10)
    with caplog.at_level(logging.WARNING):
        logs = learn_and_record(model, 96)
    assert all(th.equal(updates[0][name], updates[1][name]) for name in updates[0] if not name.endswith("lr"))
    assert not all(th.equal(updates[1][name], updates[2][name]) for name in updates[1])
    assert (logs[2]["train/returns_to_finite"], logs[2]["train/skipped_steps"]) == (1, 10)
    assert [log["train/learning_rate"] for log in logs[1:]] == [1e-3, 1e-3, 5e-4]
    assert model.policy.optimizer.param_groups[0]["lr"] == 5e-4
    assert "the policy is as before the update again, and learning rate lowered from 0.001 to 0.0005" in caplog.text


def test_a_training_that_no_way_back_helps_ends() -> None:
    model = PPOPlus("MlpPolicy", envs(), nan_policy="quarantine", **(SMALL | {"n_epochs": 8}))
    first = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    spoil_gradients(model, lambda call: True)
    with pytest.raises(NonFinite, match="halved 5 times in a row without effect"):
        model.learn(32 * 20)
    assert model.learning_rate_factor == 0.5**5
    assert all(th.equal(first[name], tensor) for name, tensor in tensors_of(model).items() if name in first)


@pytest.mark.parametrize("policy", ["raise", "quarantine"])
def test_parameters_that_a_step_has_spoilt_are_taken_back(policy: str) -> None:
    settings = SMALL | {"n_epochs": 1, "batch_size": 32, "policy_kwargs": {"optimizer_class": th.optim.SGD}}
    model = PPOPlus("MlpPolicy", envs(), nan_policy=policy, learning_rate=1e38, max_grad_norm=100.0, **settings)
    first = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    if policy == "raise":
        with pytest.raises(NonFinite, match=r"parameter .* is (-?inf|nan) at timestep 32: the policy is as before"):
            model.learn(32)
    else:
        model.learn(32)
        assert model.nonfinite_counts["returns"] == 1 and model.learning_rate_factor == 0.5
    assert all(th.equal(first[name], tensor) for name, tensor in model.policy.state_dict().items())


class Huge(Walk):
    """Rewards that are numbers, whose squares are none."""

    scale = 1e30

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, self.scale if self.count in (5, 21) else 1.0, terminated, truncated, info


class Large(Huge):
    """Rewards whose squares are numbers, though the sum of squares over a gradient is none in single precision."""

    scale = 5e18


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_loss_that_overflows(compiled: bool) -> None:
    model = PPOPlus("MlpPolicy", DummyVecEnv([Huge]), compile_update=compiled, **SMALL)
    first = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    with pytest.raises(NonFinite) as caught:
        model.learn(64)
    assert (caught.value.place, caught.value.env) == ("loss", None)
    assert all(th.equal(first[name], tensor) for name, tensor in model.policy.state_dict().items())


@pytest.mark.parametrize("compiled", [False, True])
def test_a_large_gradient_is_clipped_and_no_more(compiled: bool) -> None:
    model = PPOPlus("MlpPolicy", DummyVecEnv([Large]), compile_update=compiled, **SMALL).learn(64)
    assert all(bool(th.isfinite(tensor).all()) for tensor in tensors_of(model).values())
    assert model.num_gradient_steps == 8 and not model.nonfinite_counts


def test_a_compiled_update_skips_what_the_eager_one_skips() -> None:
    models = []
    for compiled in (False, True):
        model = PPOPlus("MlpPolicy", DummyVecEnv([Huge]), compile_update=compiled, nan_policy="quarantine", **SMALL)
        model.learn(64)
        models.append(model)
    eager, compiled_model = models
    assert eager.nonfinite_counts == compiled_model.nonfinite_counts
    assert eager.nonfinite_counts["skipped"] > 0
    for name, tensor in tensors_of(eager).items():
        th.testing.assert_close(tensors_of(compiled_model)[name], tensor, rtol=1e-3, atol=1e-5)
    assert compiled_model._update_passes is not None and not compiled_model._update_passes.failed  # type: ignore[attr-defined]


def test_the_critic_alone_is_guarded_as_well() -> None:
    model = PPOPlus("MlpPolicy", envs(), critic_epochs=1, critic_learning_rate=1e-3, nan_policy="quarantine", **SMALL)
    calls = [0]
    model.policy.value_net.bias.register_hook(lambda slope: slope * (NAN if _third_of_five(calls) else 1.0))
    model.learn(96)
    assert model.nonfinite_counts["skipped"] > 0
    assert all(bool(th.isfinite(tensor).all()) for tensor in tensors_of(model).values())


def _third_of_five(calls: list[int]) -> bool:
    calls[0] += 1
    return calls[0] % 5 == 3


# ------------------------------------------------ the argument


def test_ignore_does_what_sb3_does() -> None:
    model = PPOPlus("MlpPolicy", envs(place="reward", bad_steps=at(5)), nan_policy="ignore", **SMALL)
    with pytest.raises(ValueError, match="Expected parameter loc"):
        model.learn(64)
    assert not all(bool(th.isfinite(tensor).all()) for tensor in tensors_of(model).values())


@pytest.mark.parametrize("policy", ["raise", "quarantine"])
@pytest.mark.parametrize("tensors", [False, True])
def test_nothing_changes_while_all_is_finite(policy: str, tensors: bool) -> None:
    models = []
    for nan_policy in ("ignore", policy):
        env: VecEnv = PointMass(2, seed=1) if tensors else envs()
        models.append(PPOPlus("MlpPolicy", env, nan_policy=nan_policy, **SMALL).learn(96))
    assert_same_tensors(*models)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="nan_policy='skip' is unknown; choose one of raise, quarantine, ignore"):
        PPOPlus("MlpPolicy", envs(), nan_policy="skip")


def test_what_was_counted_and_the_lowered_rate_are_saved(tmp_path: Any) -> None:
    model = PPOPlus("MlpPolicy", envs(), nan_policy="quarantine", learning_rate=1e-3, **(SMALL | {"n_epochs": 8}))
    spoil_gradients(model, lambda call: call <= 10)
    model.learn(32)
    assert model.learning_rate_factor == 0.5
    save_checkpoint(model, tmp_path / "checkpoint.zip")
    model.save(tmp_path / "model.zip")
    for other in (resume(tmp_path / "checkpoint.zip", env=envs()), PPOPlus.load(tmp_path / "model.zip", env=envs())):
        assert other.nonfinite_counts == model.nonfinite_counts
        logs = learn_and_record(other, 64, reset_num_timesteps=False)
        assert logs[-1]["train/learning_rate"] == 5e-4


def test_the_error_survives_a_process_boundary() -> None:
    error = NonFinite("reward", 3, 12, "", INF, "do something")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "reward of environment 3 is inf at timestep 12: do something"
    assert (again.env, again.value) == (3, INF)
