"""Rollouts whose rows stay on the device, tried on the processor: the host's numbers, and all around a training."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import Critic, assert_same_tensors, learn_and_record, same_number, tensors_of
from integration.test_tensor_rollout import DoublePrecision, Floor, Hasty, Judged, Pushed
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._python_dispatch import TorchDispatchMode
from toy_envs import DictPointMass, DiscretePointMass, PointMass, RecyclingPointMass

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.buffers import INVALID_ROW
from sb3_ppo_plus.checkpoint import resume, save_checkpoint
from sb3_ppo_plus.compiled import CompiledUpdate
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.passes import DeviceUpdate
from sb3_ppo_plus.device.rows import DeviceRows
from sb3_ppo_plus.eager import EagerUpdate
from sb3_ppo_plus.envs import TensorVecMonitor, TensorVecNormalize, TorchVecEnv
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.errors import InvalidArgument, NonFinite
from sb3_ppo_plus.schedules import LinearSchedule
from sb3_ppo_plus.types import TensorStep

N, T = 3, 39
ON_DEVICE = {"rollout": True}


def make(env: TensorVecEnv | None = None, on_device: bool = True, **overrides: Any) -> PPOPlus:
    """A small model whose rows stay where they are; a test states only what it varies."""
    arguments: dict[str, Any] = {"policy": "MlpPolicy", "n_steps": T, "batch_size": 39, "n_epochs": 2, "seed": 0}
    arguments |= {"device": "cpu", "policy_kwargs": {"net_arch": [16]}, "gamma": 0.9}
    options = {**(ON_DEVICE if on_device else {}), **overrides.pop("device_options", {})}
    return PPOPlus(env=env or PointMass(N, seed=4), **{**arguments, **overrides, "device_options": options})


@pytest.fixture
def same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs in the order that the host draws, so that both ways see the same minibatches."""

    def draw(self: DeviceRows, n_rows: int) -> th.Tensor:
        buffer = self.buffer
        host = th.arange(n_rows).reshape(buffer.buffer_size, buffer.n_envs).T.flatten()
        return host[th.as_tensor(np.random.permutation(n_rows))]

    monkeypatch.setattr(DeviceRows, "draw_order", draw)


# ------------------------------------------------ the host's numbers

ENVS: dict[str, Callable[[], TensorVecEnv]] = {
    "box": lambda: PointMass(N, seed=4),
    "one environment": lambda: PointMass(1, seed=4),
    "discrete": lambda: DiscretePointMass(N, seed=4),
    "discrete observations": lambda: Floor(N, seed=4),
    "float64 observations": lambda: DoublePrecision(N, seed=4),
    "narrow box": lambda: Pushed(spaces.Box(-0.1, 0.3, (2,))),
    "table of actions": lambda: Pushed(spaces.Box(-0.4, 0.4, (2, 2))),
    "multidiscrete": lambda: Pushed(spaces.MultiDiscrete([3, 2])),
    "multibinary": lambda: Pushed(spaces.MultiBinary(3)),
    "recycled memory": lambda: RecyclingPointMass(N, seed=4),
    "ends of all kinds at once": Hasty,
    "normalized": lambda: TensorVecNormalize(PointMass(N, seed=4), gamma=0.9),
    "monitored": lambda: TensorVecMonitor(RecyclingPointMass(N, seed=4)),
    "CartPole": lambda: TorchVecEnv("CartPole-v1", 5, seed=4, max_episode_steps=30),
    "Pendulum": lambda: TorchVecEnv("Pendulum-v1", 5, seed=4, max_episode_steps=10),
}


class Own(ActorCriticPolicy):
    """Evaluates actions by a method of its own, which is not looked into."""

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> Any:
        return super().evaluate_actions(obs, actions)


EXTRAS: dict[str, dict[str, Any]] = {
    "last minibatch is short": {"batch_size": 50},
    "one minibatch": {"batch_size": N * T},
    "KL penalty": {"kl_coef": 1.0, "controllers": {"kl_coef": {"type": "kl_band", "target": 1e-4}}},
    "stop": {"target_kl": 2e-4, "n_epochs": 4, "learning_rate": 3e-3},
    "stop in the first epoch": {"target_kl": 1e-8},
    "stop after an epoch": {"target_kl": 1e-5, "kl_stop": "epoch"},
    "rollback": {"target_kl": 1e-5, "kl_stop": "rollback"},
    "rate by minibatch": {
        "controllers": {"learning_rate": {"type": "kl_band", "target": 1e-4, "every": "minibatch"}},
        "n_epochs": 4,
    },
    "rate by minibatch, and a stop": {
        "controllers": {"learning_rate": {"type": "kl_band", "target": 1e-3, "every": "minibatch"}},
        "target_kl": 4e-3,
        "n_epochs": 6,
        "learning_rate": 3e-3,
    },
    "rate by minibatch, a rate for the critic": {
        "controllers": {"learning_rate": {"type": "kl_band", "target": 1e-4, "every": "minibatch"}},
        "critic_learning_rate": 1e-3,
    },
    "rate by minibatch, in proportion": {
        "controllers": {"learning_rate": {"type": "kl_proportional", "target": 1e-4, "every": "minibatch"}}
    },
    "rate by epoch": {"controllers": {"learning_rate": {"type": "kl_band", "target": 1e-4, "every": "epoch"}}},
    "standardized over the batch": {"advantage_scope": "batch"},
    "standardized by environment": {"advantage_scope": "env"},
    "not standardized": {"advantage_scope": "none"},
    "critic apart": {"critic_epochs": 2, "critic_learning_rate": 1e-3},
    "schedules": {"learning_rate": "lin_1e-3", "ent_coef": "lin_0.1", "clip_range": LinearSchedule(0.2, 0.1)},
    "clipped values": {"clip_range_vf": 0.2, "vf_loss": "max"},
    "another optimizer": {"policy_kwargs": {"optimizer_class": th.optim.RMSprop, "net_arch": [16]}},
    "a policy of one's own": {"policy": Own, "target_kl": 2e-4},
    "no guard": {"nan_policy": "ignore"},
}


ROWS = "observations actions rewards episode_starts values log_probs advantages returns".split()


def assert_alike(ours: PPOPlus, theirs: PPOPlus, logs: list[Any], their_logs: list[Any], tolerance: float) -> None:
    assert isinstance(ours.rollout_buffer, DeviceBuffer) and not isinstance(theirs.rollout_buffer, DeviceBuffer)
    shape = (ours.n_steps, ours.n_envs)
    for name in ROWS:
        one, other = getattr(ours.rollout_buffer, name), getattr(theirs.rollout_buffer, name)
        if name not in ("rewards", "episode_starts"):  # these, SB3's update leaves as they were
            other = other.reshape(shape[1], shape[0], *other.shape[1:]).swapaxes(0, 1)
        one = one.reshape(*shape, -1)
        np.testing.assert_allclose(one, other.reshape(one.shape), rtol=tolerance, atol=tolerance, err_msg=name)
    for name, tensor in tensors_of(theirs).items():
        mine = tensors_of(ours)[name].numpy()
        np.testing.assert_allclose(mine, tensor.numpy(), rtol=tolerance, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(ours._last_obs, theirs._last_obs, rtol=tolerance, atol=tolerance)
    assert ours._last_obs.dtype == theirs._last_obs.dtype
    np.testing.assert_array_equal(ours._last_episode_starts, theirs._last_episode_starts)
    assert [episode["l"] for episode in ours.ep_info_buffer] == [episode["l"] for episode in theirs.ep_info_buffer]
    for one, other in zip(ours.ep_info_buffer, theirs.ep_info_buffer, strict=True):
        assert one["r"] == pytest.approx(other["r"], rel=1e-3, abs=1e-3)
    assert list(ours.ep_success_buffer) == list(theirs.ep_success_buffer)
    assert ours.num_gradient_steps == theirs.num_gradient_steps
    for mine, other in zip(logs, their_logs, strict=True):
        mine, other = ({key: dump[key] for key in dump if not key.startswith("time/")} for dump in (mine, other))
        assert mine.keys() == other.keys()
        for key in other:
            close = np.isclose(mine[key], other[key], rtol=1e-2, atol=1e-3)
            assert same_number(mine[key], other[key]) or close, (key, mine[key], other[key])


def both(make_env: Callable[[], TensorVecEnv], updates: int = 3, tolerance: float = 1e-4, **overrides: Any) -> PPOPlus:
    models, logs = [], []
    for on_device in (True, False):
        model = make(make_env(), on_device, **overrides)
        with th.no_grad():
            model.policy.action_net.weight.mul_(30.0)  # actions that matter
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You have specified a mini-batch size")
            logs.append(learn_and_record(model, updates * model.n_steps * model.n_envs))
        models.append(model)
    assert_alike(*models, *logs, tolerance)
    return models[0]


@pytest.mark.parametrize("name", ENVS)
def test_rollouts_and_updates_are_the_hosts_to_rounding(name: str, same_order: None) -> None:
    model = both(ENVS[name])
    assert isinstance(model._update_passes, DeviceUpdate)
    assert 0.0 < model.rollout_buffer.episode_starts.mean() < 0.5


@pytest.mark.parametrize("name", EXTRAS)
def test_every_extra_is_the_hosts_to_rounding(name: str, same_order: None) -> None:
    model = both(ENVS["box"], **EXTRAS[name])
    own = name == "a policy of one's own"
    assert type(model._update_passes) is (EagerUpdate if own else DeviceUpdate)


def test_episodes_that_succeeded_are_counted(same_order: None) -> None:
    class Succeeding(Judged):
        def step_tensors(self, actions: th.Tensor) -> TensorStep:
            step = super().step_tensors(actions)
            return step._replace(stats={name: value for name, value in step.stats.items() if name != INVALID_ROW})

    model = both(lambda: Succeeding(N, seed=4))
    assert {True, False} == set(model.ep_success_buffer)


def test_a_truncated_step_is_worth_what_the_critic_expects_after_it() -> None:
    rewards = []
    for opinion in (2.0, 0.0):
        model = make(Hasty(), policy=Critic, policy_kwargs={"opinion": opinion}, n_epochs=1).learn(N * T)
        rewards.append(model.rollout_buffer.tensors["rewards"])
    added = rewards[0] - rewards[1]
    cut = model.rollout_buffer.tensors["cut"]
    th.testing.assert_close(added, 1.8 * cut.float(), atol=1e-6, rtol=0)
    assert 5 < cut.sum() < N * (T // 3)


@pytest.mark.slow
def test_steps_can_be_compiled(same_order: None) -> None:
    extras = EXTRAS["rate by minibatch, and a stop"]
    model = both(ENVS["box"], compile_update=True, **extras)
    assert isinstance(model._update_passes, DeviceUpdate) and model._update_passes.compiles
    assert not model._update_passes.failed


def test_it_learns() -> None:
    env = TorchVecEnv("CartPole-v1", 64, seed=0)
    model = make(env, n_steps=32, batch_size=512, n_epochs=5, learning_rate=2e-3, gamma=0.98, seed=1, policy_kwargs={})
    model.learn(60_000)
    assert np.mean([episode["r"] for episode in model.ep_info_buffer]) > 120


# ------------------------------------------------ nobody waits

# What makes the host wait where the device is not the processor itself.
_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")


class Waits(TorchDispatchMode):
    """Counts operations whose result the host, or the shape of the next operation, depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.paused = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indexed = name == "index" and any(x is not None and x.dtype == th.bool for x in args[1])
        if (name in _WAITS or indexed) and not self.paused:
            self.count += 1
        return func(*args, **(kwargs or {}))


def waits_of(n_steps: int, part: str, monkeypatch: Any, **overrides: Any) -> int:
    """How often the host waits in the second rollout, or in the second update; the environment's own waits aside."""
    seen = Waits()

    class Paused(PointMass):
        def step_tensors(self, actions: th.Tensor) -> TensorStep:
            seen.paused = True
            step = super().step_tensors(actions)
            seen.paused = False
            return step

    model = make(Paused(8, seed=4), n_steps=n_steps, **{"batch_size": 32, "n_epochs": 2, **overrides})
    original = getattr(model, part)
    counts: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.count = 0
        with seen:
            result = original(*args, **kwargs)
        counts.append(seen.count)
        return result

    monkeypatch.setattr(model, part, counted)
    from sb3_ppo_plus.device import rollout

    full = rollout.add_final_values
    monkeypatch.setattr(rollout, "add_final_values", lambda buffer, actor, looks: full(buffer, actor, False))
    model.learn(2 * 8 * n_steps)
    return counts[-1]


def test_the_host_does_not_wait_for_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (waits_of(n_steps, "collect_rollouts", monkeypatch) for n_steps in (8, 40))
    assert short == long <= 2


@pytest.mark.parametrize("name", ["rate by minibatch", "stop", "KL penalty", "standardized over the batch"])
def test_the_host_does_not_wait_for_minibatches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_ppo_plus.metrics.UpdateMetrics._add_scalars", lambda *args: None)  # the host's own way
    overrides = {**EXTRAS[name], "nan_policy": "ignore"}
    if "target_kl" in overrides:
        overrides["target_kl"] = 10.0
    few, many = (waits_of(n_steps, "train", monkeypatch, **overrides) for n_steps in (16, 64))
    assert few == many


# ------------------------------------------------ callbacks


class Reading(BaseCallback):
    """Reads every local variable of SB3's loop at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        names = "n_steps obs_tensor actions clipped_actions values log_probs new_obs rewards dones infos".split()
        self.seen.append({name: copy.deepcopy(self.locals[name]) for name in names})
        return True


def test_callbacks_read_what_they_read_on_the_host(same_order: None) -> None:
    seen = []
    for on_device in (True, False):
        callback = Reading()
        make(PointMass(N, seed=4), on_device).learn(N * T, callback)
        seen.append(callback.seen)
    assert len(seen[0]) == len(seen[1]) == T
    for ours, theirs in zip(*seen, strict=True):
        assert ours.pop("n_steps") == theirs.pop("n_steps")
        mine, others = ours.pop("infos"), theirs.pop("infos")
        assert [info.keys() for info in mine] == [info.keys() for info in others]
        for name, value in theirs.items():
            assert type(ours[name]) is type(value) and ours[name].shape == value.shape, name
            np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
        for one, other in zip(mine, others, strict=True):
            assert one["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            assert one["speed"] == pytest.approx(other["speed"], rel=1e-3, abs=1e-4)


def test_callbacks_of_sb3_work(tmp_path: Path) -> None:
    env = TensorVecNormalize(PointMass(N, seed=4))
    other = TensorVecNormalize(PointMass(2, seed=9), training=False, norm_reward=False)
    saving = CheckpointCallback(20, str(tmp_path), save_vecnormalize=True)
    evaluating = EvalCallback(other, n_eval_episodes=2, eval_freq=20, best_model_save_path=str(tmp_path), verbose=0)
    model = make(env).learn(3 * N * T, [saving, evaluating])
    assert isinstance(model.rollout_buffer, DeviceBuffer)
    assert np.isfinite(evaluating.last_mean_reward) and (tmp_path / "best_model.zip").exists()
    assert other.obs_rms.count > 20, "the evaluation takes over the statistics of the training"
    assert len(list(tmp_path.glob("rl_model_*.zip"))) == len(list(tmp_path.glob("rl_model_vecnormalize_*"))) == 5
    statistics = VecNormalize.load(str(next(tmp_path.glob("rl_model_vecnormalize_*"))), PointMass(N))
    assert statistics.obs_rms.count > 20


def test_a_callback_that_ends_the_training_ends_it() -> None:
    class Ending(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 5

    assert make().learn(10 * N * T, Ending()).num_timesteps == 5 * N


def test_arrays_of_the_buffer_can_be_read_by_callbacks_and_not_written() -> None:
    class Looking(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            buffer = self.locals["rollout_buffer"]
            assert buffer.full and buffer.observations.shape == (T, N, 2) and buffer.rewards.max() < 0
            with pytest.raises(ValueError, match="read-only"):
                buffer.rewards[...] = 0.0

    make().learn(N * T, Looking())


# ------------------------------------------------ files


def test_zips_are_those_of_any_model(tmp_path: Path) -> None:
    model = make(TorchVecEnv("CartPole-v1", 4, seed=0)).learn(500)
    model.save(tmp_path / "model.zip")
    obs = np.zeros((2, 4), np.float32)
    for kind in (PPOPlus, PPO):
        loaded = kind.load(tmp_path / "model.zip", device="cpu")
        assert (loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()
    again = PPOPlus.load(tmp_path / "model.zip", env=TorchVecEnv("CartPole-v1", 4, seed=0), device="cpu")
    assert again.device_options == ON_DEVICE
    assert isinstance(again.learn(200).rollout_buffer, DeviceBuffer)


def test_a_resumed_run_is_the_one_that_went_on(tmp_path: Path) -> None:
    def begin() -> PPOPlus:
        return make(TensorVecNormalize(TorchVecEnv("Pendulum-v1", 4, seed=0, max_episode_steps=30)))

    class Saving(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.num_timesteps == 2 * 4 * T:
                save_checkpoint(self.model, tmp_path / "run.ckpt")

    whole = begin().learn(5 * 4 * T, Saving())
    rest = resume(tmp_path / "run.ckpt", env=begin().get_env(), device="cpu").learn(5 * 4 * T)
    assert isinstance(rest.rollout_buffer, DeviceBuffer)
    assert rest.num_timesteps == whole.num_timesteps
    assert_same_tensors(whole, rest)


def test_a_run_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from sb3_ppo_plus.export import export_onnx

    model = make(TensorVecNormalize(PointMass(N, seed=4))).learn(N * T)
    assert export_onnx(model, tmp_path / "policy.onnx", n_random=50).verification.passed


def test_buffers_are_copied_and_pickled() -> None:
    model = make().learn(N * T)
    for other in (copy.deepcopy(model.rollout_buffer), pickle.loads(pickle.dumps(model.rollout_buffer))):
        assert isinstance(other, DeviceBuffer) and other.full
        np.testing.assert_array_equal(other.advantages, model.rollout_buffer.advantages)


def test_statistics_go_to_sb3_and_back() -> None:
    env = TensorVecNormalize(PointMass(N, seed=4))
    make(env).learn(N * T)
    theirs = env.to_vec_normalize(PointMass(N))
    back = TensorVecNormalize.from_vec_normalize(theirs, PointMass(N))
    np.testing.assert_array_equal(back.obs_rms.mean, env.obs_rms.mean)


# ------------------------------------------------ where it cannot be


class OwnBuffer(RolloutBuffer):
    """Somebody's own."""


class Masked(DiscretePointMass):
    def action_masks(self) -> np.ndarray:
        return np.ones((self.num_envs, 3), dtype=bool)


NOT_THERE: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "observations are a Dict": (lambda: DictPointMass(N), {"policy": "MultiInputPolicy"}),
    "gSDE": (lambda: PointMass(N), {"use_sde": True}),
    "action masks": (lambda: Masked(N), {}),
    "recompute_advantages": (lambda: PointMass(N), {"recompute_advantages": True}),
    "rollout buffer of its own": (lambda: PointMass(N), {"rollout_buffer_class": OwnBuffer}),
    "VecNormalize has no tensor face": (lambda: VecNormalize(PointMass(N)), {}),
}


@pytest.mark.parametrize("reason", NOT_THERE)
def test_where_it_cannot_be_the_host_takes_over_and_says_why(reason: str) -> None:
    make_env, overrides = NOT_THERE[reason]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = make(make_env(), **overrides).learn(N * T)
    told = [str(warning.message) for warning in caught if "device_options" in str(warning.message)]
    assert len(told) == 1 and reason in told[0]
    assert not isinstance(model.rollout_buffer, DeviceBuffer) and model.num_timesteps == N * T


def test_nothing_changes_on_the_processor_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        model = make(on_device=False).learn(N * T)
    assert not isinstance(model.rollout_buffer, DeviceBuffer) and not caplog.records


def test_a_model_goes_from_one_to_the_other() -> None:
    model = make().learn(N * T)
    model.device_options = None
    assert type(model.learn(N * T).rollout_buffer).__name__ == "RolloutBuffer"
    model.device_options, model.compile_update = ON_DEVICE, False
    assert isinstance(model.learn(N * T).rollout_buffer, DeviceBuffer)
    assert isinstance(model._update_passes, CompiledUpdate)


def test_agents_with_a_rhythm_of_their_own_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"rhythm of their own.*'rollout': False"):
        make(Judged(N, seed=4)).learn(N * T)


# ------------------------------------------------ numbers that are none


class Broken(PointMass):
    """Gives NaN once, in one environment, at one place."""

    place = "obs"

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensors(actions)
        self.t = getattr(self, "t", 0) + 1
        if self.t != 7:
            return step
        value = getattr(step, self.place).clone()
        value[1] = np.nan
        return step._replace(**{self.place: value})


@pytest.mark.parametrize(
    ("place", "told"), [("obs", "observation"), ("rewards", "reward"), ("final_obs", "final observation")]
)
@pytest.mark.parametrize("policy", ["raise", "quarantine"])
def test_nan_of_an_environment_is_refused_before_anything_is_learned(place: str, told: str, policy: str) -> None:
    env = Broken(N, seed=4)
    env.place = place
    model = make(TensorVecNormalize(env), nan_policy=policy)
    before = copy.deepcopy(model.policy.state_dict())
    with pytest.raises(NonFinite, match=rf"^{told} of environment 1 is nan at timestep {7 * N}: "):
        model.learn(N * T)
    assert all(th.equal(before[name], value) for name, value in model.policy.state_dict().items())


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(2)])
def test_nan_in_front_of_choices_is_told_as_what_it_is(space: spaces.Space) -> None:
    class BrokenChoices(Pushed, Broken):
        """Mixed."""

    env = TensorVecNormalize(BrokenChoices(space))
    with pytest.raises(NonFinite, match=rf"^observation of environment 1 is nan at timestep {7 * N}: "):
        make(env).learn(N * T)


def test_nan_of_the_policy_is_told_as_an_action() -> None:
    model = make(PointMass(N, seed=4))
    with th.no_grad():
        model.policy.log_std.fill_(float("nan"))
    with pytest.raises(NonFinite, match=rf"^action of environment 0 is nan at timestep {N}: the policy"):
        model.learn(N * T)


# ------------------------------------------------ precision


def test_networks_in_bfloat16_learn_much_the_same(same_order: None) -> None:
    exact, rounded = (
        make(TorchVecEnv("CartPole-v1", 4, seed=0), device_options=options, n_epochs=1).learn(4 * T)
        for options in ({}, {"autocast": "bfloat16"})
    )
    ours, theirs = tensors_of(rounded), tensors_of(exact)
    assert all(ours[name].dtype == theirs[name].dtype for name in theirs)
    assert any(not th.equal(ours[name], theirs[name]) for name in theirs)
    for name in [name for name in theirs if name.startswith("policy.")]:
        th.testing.assert_close(ours[name], theirs[name], rtol=0.1, atol=0.02)
    assert rounded.rollout_buffer.tensors["log_probs"].dtype == th.float32
    assert not rounded.policy.action_net._forward_hooks, "nothing is left behind"


def test_the_first_ratio_of_an_update_is_one_in_bfloat16_too() -> None:
    model = make(device_options={"autocast": "bfloat16"}, n_epochs=1, batch_size=N * T)
    logs = learn_and_record(model, N * T)
    assert logs[-1]["train/ratio_min"] == pytest.approx(1.0, abs=0.02)
    assert logs[-1]["train/ratio_max"] == pytest.approx(1.0, abs=0.02)


def test_the_precision_of_products_is_that_of_the_training_alone() -> None:
    seen: list[str] = []

    class Looking(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(th.get_float32_matmul_precision())
            return True

    before = th.get_float32_matmul_precision()
    make(device_options={"matmul_precision": "medium"}).learn(N * T, Looking())
    assert set(seen) == {"medium"} and th.get_float32_matmul_precision() == before
    make(on_device=False).learn(N * T, Looking())
    assert seen[-1] == before
