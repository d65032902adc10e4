"""
PPOPlus: the only place where the losses, the numbers that move and SB3 meet.

Words, as used in this file: an *iteration* of ``learn()`` collects one *rollout* (T steps of N environments) and makes
one *update* from it; an update passes over the rollout in *epochs*; an epoch is cut into *minibatches* of B rows, each
of which gives one *gradient step*.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus import coefficients, optim, rollout, update
from sb3_ppo_plus.buffers import RowsMixin, with_rows
from sb3_ppo_plus.callback_locals import with_lazy_locals
from sb3_ppo_plus.compile_choice import choose_update
from sb3_ppo_plus.controllers import Controller
from sb3_ppo_plus.device.choice import begin_on_device, lives_on_accelerator
from sb3_ppo_plus.device.training import on_device
from sb3_ppo_plus.distributed.algorithm import RankedAlgorithm
from sb3_ppo_plus.eager import EagerUpdate
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.hybrid_policy import policy_class_for
from sb3_ppo_plus.nonfinite.guards import end_update, guard_envs, log_envs
from sb3_ppo_plus.nonfinite.update_guard import UpdateGuard
from sb3_ppo_plus.presets import apply_preset
from sb3_ppo_plus.probe import Measurement
from sb3_ppo_plus.profiling import Profile, log_profile
from sb3_ppo_plus.reference import check_same_kind, freeze
from sb3_ppo_plus.resumable import Learning
from sb3_ppo_plus.rollout_ends import fill_gaps
from sb3_ppo_plus.update_log import log_update
from sb3_ppo_plus.update_start import start_update
from sb3_ppo_plus.validation import check_environment, check_settings

logger = logging.getLogger(__name__)


class PPOPlus(RankedAlgorithm):
    """
    Proximal Policy Optimization, equal to SB3's PPO bit for bit while every extra is off.

    Schulman et al. 2017, https://arxiv.org/abs/1707.06347. Wherever "schedule" stands below, a callable of the
    remaining progress (1 to 0) is taken, a schedule of this package, or its plain form (``{"type": "linear", "start":
    3e-4, "end": 0}``, ``"lin_3e-4"``).

    :param policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a policy class
    :param env: environment to learn from, or its Gymnasium id
    :param learning_rate: number or schedule, typically 1e-5 to 3e-3; larger learns faster until it breaks the policy
    :param n_steps: steps of each environment in a rollout (T), typically 16 to 4096; larger gives better estimates,
        fewer updates
    :param batch_size: rows of a minibatch (B), typically 32 to 4096; larger gives fewer and less noisy gradient steps
    :param n_epochs: passes over a rollout, typically 3 to 20; larger uses data more and moves the policy further
    :param gamma: discount factor, typically 0.95 to 0.999; larger looks further ahead with more variance
    :param gae_lambda: trade-off of the advantage estimate, typically 0.9 to 0.98; larger has less bias and more
        variance
    :param clip_range: number, schedule, a pair (low, high) for an asymmetric range, or None for no clipping; typically
        0.1 to 0.3; larger lets one update move the policy further
    :param clip_range_vf: number or schedule; largest change of a value prediction in units of return; None (default)
        for none
    :param normalize_advantage: whether to standardize advantages, see ``advantage_scope``
    :param ent_coef: number or schedule, typically 0 to 0.02; larger keeps exploring longer
    :param vf_coef: number or schedule, typically 0.25 to 1; weight of the value loss, which matters where networks are
        shared
    :param max_grad_norm: largest global norm of the gradient, typically 0.5 to 1
    :param use_sde: use generalized State Dependent Exploration (continuous actions only)
    :param sde_sample_freq: sample new gSDE noise every so many steps, -1 for once a rollout
    :param rollout_buffer_class: rollout buffer class, chosen by the observation space when None
    :param rollout_buffer_kwargs: keyword arguments of the rollout buffer
    :param target_kl: stop an update early beyond 1.5 times this KL (nats), typically 0.01 to 0.05; it stops, it never
        steers
    :param stats_window_size: episodes over which returns and lengths are averaged in the log
    :param tensorboard_log: folder of the TensorBoard log, None for none
    :param policy_kwargs: keyword arguments of the policy
    :param verbose: 0 silent, 1 information, 2 debug
    :param seed: seed of python, numpy, torch and the environments
    :param device: ``auto``, ``cpu``, ``cuda``, ...
    :param _init_setup_model: whether to build the networks at once
    :param preset: name of a set of arguments, see :mod:`sb3_ppo_plus.presets`; an argument that differs from its
        default wins
    :param vf_loss: form of the value loss: ``sb3``, ``max`` (PPO2), ``huber`` or ``error_cap`` (RLlib), see
        :func:`sb3_ppo_plus.losses.value_loss`
    :param huber_delta: error in units of return beyond which ``huber`` is linear; smaller is more robust and slower
    :param vf_error_cap: squared error beyond which ``error_cap`` ignores a row; smaller ignores more
    :param kl_stop: how ``target_kl`` stops: ``minibatch`` (SB3), ``epoch`` (mean over the epoch) or ``rollback`` (undo
        the epoch that overshot, parameters and optimizer state)
    :param kl_coef: number or schedule; weight of KL(old, new) in the loss, 0 for none, the paper starts at 1; larger
        takes smaller steps. Exact for SB3's distributions, the k3 estimate elsewhere
    :param controllers: coefficient name to controller, e.g. ``{"kl_coef": {"type": "kl_band", "target": 0.01}}``; may
        move ``learning_rate``, ``kl_coef``, ``reference_kl_coef`` (by KL) and ``ent_coef`` (by entropy), see
        :mod:`sb3_ppo_plus.controllers`
    :param dual_clip: bound c > 1 on the loss of bad actions that became likely, typically 3; None for none
    :param advantage_scope: what advantages are standardized over: ``minibatch`` (SB3), ``batch``, ``env`` or ``none``
    :param recompute_advantages: recompute advantages and targets with the newer critic before each epoch but the first
    :param critic_learning_rate: number or schedule for the critic's own parameters, None for ``learning_rate``;
        parameters shared with the actor follow ``learning_rate``
    :param critic_epochs: passes over the rollout after the update in which only the critic learns
    :param reference_policy: policy to stay near while learning: path of a zip, model or policy; it is copied and frozen
    :param reference_kl_coef: number or schedule; weight of KL(new, reference), typically 0.01 to 1; larger keeps more
        of it
    :param log_diagnostics: also log KL, entropies, ratios and gradient norms; costs some percent of an update
    :param use_masking: whether masks of environments that offer them (``action_masks()``, as for MaskablePPO) are
        applied, see :mod:`sb3_ppo_plus.masking`
    :param compile_update: make each gradient step one graph of ``torch.compile``: several times as fast on small
        networks, equal to float32 rounding; ``"auto"`` does it where the run is long enough, see ``docs/speed.md``
    :param nan_policy: what follows from NaN or infinity: ``raise`` an error that names where it comes from, before
        anything is learned from it; ``quarantine`` resets the environment, skips the step and counts; ``ignore`` as SB3
        does, see ``docs/nan.md``
    :param device_options: what is done where environments and policy share an accelerator: ``rollout``,
        ``cuda_graphs``, ``matmul_precision`` and ``autocast``, see ``docs/device.md``
    :raises InvalidArgument: when an argument cannot work: before an environment is made where that can be told, and
        in any case before a network or a buffer is
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }

    # own attributes; the schedules are in SB3's forms once _setup_model() has run
    batch_size: int
    n_epochs: int
    clip_range: Any
    clip_range_low: FloatSchedule | None = None
    clip_range_vf: Any
    normalize_advantage: bool
    target_kl: float | None
    preset: str | None
    vf_loss: str
    huber_delta: float
    vf_error_cap: float
    kl_stop: str
    kl_coef: Any
    controllers: Any
    controller_state: dict[str, dict[str, float]]
    dual_clip: float | None
    advantage_scope: str
    recompute_advantages: bool
    critic_learning_rate: Any
    critic_epochs: int
    reference_policy: Any
    reference_kl_coef: Any
    log_diagnostics: bool
    compile_update: bool | str
    nan_policy: str
    device_options: Mapping[str, Any] | None = None
    nonfinite_counts: dict[str, int]  #: what ``nan_policy="quarantine"`` met so far
    learning_rate_factor: float = 1.0  #: what the learning rates are multiplied with; below 1 once they were lowered
    num_gradient_steps: int = 0  #: over all calls of learn()
    profile: Profile  #: see docs/speed.md
    _controllers: dict[str, Controller]
    _reference: ActorCriticPolicy | None = None
    _update_passes: EagerUpdate | None = None
    _update_guard: UpdateGuard | None = None

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule | tuple[float, float] | None = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float | Schedule = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        preset: str | None = None,
        vf_loss: str = "sb3",
        huber_delta: float = 1.0,
        vf_error_cap: float = 10.0,
        kl_stop: str = "minibatch",
        kl_coef: float | Schedule = 0.0,
        controllers: Mapping[str, Mapping[str, Any] | Controller] | None = None,
        dual_clip: float | None = None,
        advantage_scope: str = "minibatch",
        recompute_advantages: bool = False,
        critic_learning_rate: float | Schedule | None = None,
        critic_epochs: int = 0,
        reference_policy: Any = None,
        reference_kl_coef: float | Schedule = 0.0,
        log_diagnostics: bool = True,
        use_masking: bool = True,
        compile_update: bool | str = False,
        nan_policy: str = "raise",
        device_options: Mapping[str, Any] | None = None,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        settings = settings if preset is None else apply_preset(preset, settings, _DEFAULTS)
        check_settings(settings)
        settings["reference_policy"] = None if reference_policy is None else freeze(reference_policy)
        super().__init__(**{name: settings[name] for name in _BASE_ARGUMENTS}, _init_setup_model=False)
        if self.env is not None:
            check_environment(settings, self.observation_space, self.action_space, self.n_envs)
        self.__dict__.update({name: settings[name] for name in _OWN_ARGUMENTS})
        self.controller_state, self._controllers, self.nonfinite_counts, self.profile = {}, {}, {}, Profile()
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        """Build what the arguments describe. SB3's load() calls this after it restored the attributes."""
        check_settings(vars(self))
        if self.reference_policy is not None:
            self.reference_policy = freeze(self.reference_policy)
            check_same_kind(self.reference_policy, self)
        coefficients.setup_coefficients(self)
        # save() writes SB3's class, so that PPO.load needs nothing of this package
        default_class = DictRolloutBuffer if isinstance(self.observation_space, spaces.Dict) else RolloutBuffer
        buffer_class = self.rollout_buffer_class or default_class
        policy_class, self.policy_class = self.policy_class, policy_class_for(self.policy_class, self.action_space)
        self.rollout_buffer_class = with_rows(buffer_class)
        super()._setup_model()
        self.rollout_buffer_class, self.policy_class = buffer_class, policy_class
        if self.critic_learning_rate is not None:
            optim.split_critic(self.policy)
        if self.reference_policy is not None:
            self._reference = freeze(self.reference_policy, self.device)

    def _setup_lr_schedule(self) -> None:
        """SB3 sets the optimizer's rate from this schedule at every update, so a controller of the rate must be it."""
        self.lr_schedule = FloatSchedule(self._controllers.get("learning_rate", self.learning_rate))

    def _begin_learning(self, learning: Learning) -> None:
        guard_envs(self, learning)
        begin_on_device(self, learning)

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ActorCriticPolicy") -> None:
        """SB3's advice is for environments on the host."""
        if not lives_on_accelerator(self.env, self.device):
            super()._maybe_recommend_cpu(mlp_class_name)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        coefficients.tell_schedules(self)
        rollout.tell_progress(self)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """SB3 calls this once a step, before the row is added: the place to note what its buffer does not keep."""
        super()._update_info_buffer(infos, dones)
        if dones is not None and isinstance(self.rollout_buffer, RowsMixin):
            self.rollout_buffer.note_infos(infos, dones, keep_final_obs=self.recompute_advantages)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer: in SB3's own loop, or in tensors when the outermost environment is a TensorVecEnv."""
        self._begin_rollout()
        if isinstance(env, TensorVecEnv):
            return self._end_rollout(rollout.collect(self, env, callback, rollout_buffer, n_rollout_steps))
        watched = {"env": (env, "step"), "policy": (self.policy, "forward")} if self.profile.detailed else {}
        with self.profile.section("rollout"), self.masking_forward(env, rollout_buffer), self.profile.timing(watched):
            completed = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if completed:
            fill_gaps(self, rollout_buffer)
        return self._end_rollout(completed)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        assert self.env is not None
        rollout.warn_about_numpy_wrapper(self.env)
        callback = super()._init_callback(callback, progress_bar)
        return with_lazy_locals(callback) if isinstance(self.env, TensorVecEnv) else callback

    @on_device
    def train(self) -> None:
        """Update the policy with the rollout that was collected last."""
        self._begin_update()
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        run = start_update(self)
        data, stop, metrics = run.data, run.stop, run.metrics
        passes = choose_update(self, run)
        overshot: Measurement | None = None
        for epoch in range(self.n_epochs):
            snapshot = update.Snapshot(self.policy) if stop.undoes_epochs else None
            data.start_epoch(epoch, self.policy)
            metrics.start_epoch()
            stopped = passes.train_epoch(run)
            self._n_updates += 1
            if stop.checks_epochs:
                stopped = stop.exceeded(metrics.epoch_mean("approx_kl"))
            elif snapshot is not None and stop.exceeded((after := data.measure(self.policy)).kl):
                snapshot.restore(self.policy)
                metrics.undone_epochs, overshot, stopped = 1, after, True
            coefficients.move_learning_rate(self, "epoch", metrics)
            if run.gives_up:
                break
            if stopped:
                logger.info(
                    "KL went beyond %.4g: update stopped in epoch %d of %d", stop.limit, epoch + 1, self.n_epochs
                )
                break
        for _ in range(0 if run.gives_up else self.critic_epochs):
            passes.train_critic(run)
        end_update(self, run.guard)
        self.num_gradient_steps += metrics.gradient_steps
        with self.profile.section("measure"):
            measured = data.measure(self.policy) if data.probe is not None else None
            log_update(self, run.coefs, metrics, measured)
        # an undone epoch left no KL behind: controllers follow what the update did before it was undone
        coefficients.move_after_rollout(self, metrics, overshot or measured)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        if self.critic_learning_rate is not None or self.learning_rate_factor != 1.0:
            coefficients.set_learning_rates(self)
            self.logger.record("train/learning_rate", coefficients.value_of(self, "learning_rate"))
        if self.critic_learning_rate is not None:
            self.logger.record("train/critic_learning_rate", coefficients.value_of(self, "critic_learning_rate"))

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log as SB3 does, with the seconds of each part of the time and the memory that is held."""
        number = self._logged_iteration(iteration)
        if number is None:
            return
        log_profile(self)
        rollout.log_environment(self)
        log_envs(self)
        with self.profile.section("log"):
            super().dump_logs(number)


_BASE_ARGUMENTS = [
    name
    for name in inspect.signature(OnPolicyAlgorithm.__init__).parameters
    if name not in ("self", "monitor_wrapper", "supported_action_spaces", "_init_setup_model")
]
_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(PPOPlus).parameters.items()}
_OWN_ARGUMENTS = [name for name in _DEFAULTS if name not in (*_BASE_ARGUMENTS, "_init_setup_model")]
