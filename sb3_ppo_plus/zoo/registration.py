"""PPOPlus in the tables of the zoo: algorithm, sampler and converter."""

from __future__ import annotations

from typing import Any

import optuna
from rl_zoo3 import exp_manager, hyperparams_opt, utils

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.zoo.manager import NAME, Manager


class _Trusting(PPOPlus):
    """Opens files as SB3 does."""

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> Any:
        return super().load(*args, **{**kwargs, "trust": True})


_Trusting.__name__ = PPOPlus.__name__  # which folders of logs are named by


def register(trust: bool = False) -> None:
    """
    Make the zoo in this process know ``ppo_plus``. Calling it again changes nothing.

    Its tables are plain dictionaries that all of its modules share, so entries are enough; the experiment manager is
    replaced by a subclass that does for ``ppo_plus`` what the zoo's own cannot, and for all else what it always did.

    :param trust: whether models are opened as SB3 does, which runs what is in them
    """
    utils.ALGOS[NAME] = _Trusting if trust else PPOPlus
    hyperparams_opt.HYPERPARAMS_SAMPLER[NAME] = sample_ppo_plus_params
    hyperparams_opt.HYPERPARAMS_CONVERTER[NAME] = convert_ppo_plus_params
    exp_manager.ExperimentManager = Manager  # type: ignore[misc]


def sample_ppo_plus_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    What ``ppo-plus zoo train -optimize`` searches: the zoo's space for PPO on numeric ranges, minibatches that divide
    the rollout, and the KL stop. `ppo-plus tune` searches more, and confirms what it finds.

    :param trial: trial of Optuna
    :param n_actions: dimensions of a continuous action
    :param n_envs: environments of the training
    :param additional_args: of the zoo, for replay buffers
    :return: arguments of PPOPlus
    """
    trial.suggest_int("n_steps_pow", 5, 11)
    trial.suggest_int("n_minibatches_pow", 1, 6)
    trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True)
    trial.suggest_float("one_minus_gae_lambda", 0.0001, 0.1, log=True)
    trial.suggest_float("learning_rate", 1e-5, 2e-3, log=True)
    trial.suggest_float("ent_coef", 1e-8, 0.1, log=True)
    trial.suggest_float("clip_range", 0.05, 0.4)
    trial.suggest_int("n_epochs", 1, 20)
    trial.suggest_float("max_grad_norm", 0.3, 2)
    trial.suggest_categorical("kl_stop", ["none", "minibatch", "epoch", "rollback"])
    if trial.params["kl_stop"] != "none":
        trial.suggest_float("target_kl", 0.005, 0.1, log=True)
    trial.set_user_attr("n_envs", n_envs)
    return convert_ppo_plus_params({**trial.params, "n_envs": n_envs})


def convert_ppo_plus_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    :param sampled_params: parameters of a trial as they were drawn; ``n_envs`` beside them where it is known
    :return: arguments of PPOPlus
    """
    params = dict(sampled_params)
    params.pop("n_envs", None)  # the rollout is n_envs times as large, and so is each minibatch
    n_envs = sampled_params.get("n_envs", 1)
    if "n_steps_pow" in params:
        params["n_steps"] = 2 ** params.pop("n_steps_pow")
        rollout = params["n_steps"] * n_envs
        wanted = 2 ** params.pop("n_minibatches_pow", 0)
        # At least two rows each, or their advantages cannot be normalized.
        params["batch_size"] = max(2, rollout // min(wanted, rollout // 2))
    for name in ("gamma", "gae_lambda"):
        if f"one_minus_{name}" in params:
            params[name] = 1 - params.pop(f"one_minus_{name}")
    if params.get("kl_stop") == "none":
        del params["kl_stop"]
    return params
