"""
What two processes do together, and one alone with the rows of both.

``python tests/rank_trainings.py SCENARIO FOLDER`` is one of several processes, as ``torchrun`` starts them; what it
found is in ``FOLDER/rank<k>.json``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from resumed_runs import digest, vec
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import Preempted, SaveCheckpoints, checkpoints_in, resume
from sb3_ppo_plus.distributed import Ranks, join
from sb3_ppo_plus.envs import TensorVecNormalize, TorchVecEnv
from sb3_ppo_plus.errors import InvalidArgument

SIZE = 2
N_STEPS, N_ENVS = 16, 4
#: cases of one update: what differs from a plain one, and whether rows are masked
UPDATES: dict[str, tuple[dict[str, Any], bool]] = {
    "plain": ({}, False),
    "masked": ({}, True),
    "batch": ({"advantage_scope": "batch"}, False),
    "batch-masked": ({"advantage_scope": "batch", "recompute_advantages": True}, True),
    "env": ({"advantage_scope": "env"}, False),
    "values": ({"normalize_advantage": False, "clip_range_vf": 0.2, "vf_loss": "huber", "ent_coef": 0.01}, False),
    "critic": ({"critic_epochs": 2, "critic_learning_rate": 3e-3}, True),
    "stops": ({"target_kl": 0.006, "learning_rate": 2e-3, "n_epochs": 60}, False),
    "stops-after-epoch": ({"target_kl": 0.002, "kl_stop": "epoch", "learning_rate": 3e-3, "n_epochs": 20}, False),
    "rolls-back": ({"target_kl": 0.002, "kl_stop": "rollback", "learning_rate": 3e-3, "n_epochs": 20}, True),
    "controllers": (
        {
            "kl_coef": 0.5,
            "controllers": {
                "learning_rate": {"type": "kl_proportional", "target": 0.001, "every": "minibatch"},
                "kl_coef": {"type": "kl_proportional", "target": 0.001},
                "ent_coef": {"type": "entropy_target", "target": 2.0},
            },
            "ent_coef": 0.01,
        },
        True,
    ),
}
#: by how much the advantages of the second half of the environments are larger
LIFT = 3.0


def update(case: str, share: slice, draw_seed: int = 7, lift: float = LIFT, **changed: Any) -> PPOPlus:
    """
    Make one update on some environments of a rollout that is always the same.

    :param case: name of one of UPDATES
    :param share: which environments
    :param draw_seed: seed of the rollout's numbers
    :param lift: by how much the advantages of the second half of the environments are larger
    :param changed: arguments of PPOPlus
    :return: the model after its update
    """
    options, is_masked = UPDATES[case]
    n_envs = len(range(*share.indices(SIZE * N_ENVS)))
    arguments = {"n_steps": N_STEPS, "batch_size": N_STEPS * n_envs, "n_epochs": 5, "seed": 0, "device": "cpu"}
    model = PPOPlus("MlpPolicy", vec("Pendulum-v1", n_envs), **{**arguments, **options, **changed})
    draw = np.random.default_rng(draw_seed)
    shape = (N_STEPS, SIZE * N_ENVS)
    obs = draw.normal(size=(*shape, 3)).astype(np.float32)[:, share]
    actions = draw.normal(size=(*shape, 1)).astype(np.float32)[:, share]
    advantages = draw.normal(size=shape).astype(np.float32)
    # What stands on the second rank is larger and further off, so that ranks on their own would differ.
    advantages[:, N_ENVS:] = lift * advantages[:, N_ENVS:] + (lift - 1.0) / 2
    valid = draw.random(shape) > np.where(np.arange(shape[1]) < N_ENVS, 0.1, 0.7)
    rewards = draw.normal(size=shape).astype(np.float32)[:, share]
    buffer: Any = model.rollout_buffer
    buffer.reset()
    with th.no_grad():
        rows = th.as_tensor(obs.reshape(-1, 3)), th.as_tensor(actions.reshape(-1, 1))
        values, log_probs, _ = model.policy.evaluate_actions(*rows)
    buffer.observations[...], buffer.actions[...], buffer.rewards[...] = obs, actions, rewards
    buffer.values[...] = values.numpy().reshape(N_STEPS, -1)
    buffer.log_probs[...] = log_probs.numpy().reshape(N_STEPS, -1)
    buffer.advantages[...] = advantages[:, share]
    buffer.returns[...] = buffer.advantages + buffer.values
    buffer.pos, buffer.full = N_STEPS, True
    if is_masked:
        buffer.valid[...] = valid[:, share]
    model._last_obs, model._last_episode_starts = obs[-1], np.zeros(n_envs, bool)
    model.set_logger(Logger(folder=None, output_formats=[]))
    np.random.seed(1)
    model.train()
    return model


def outcome(model: PPOPlus) -> dict[str, Any]:
    """
    :param model: a model after an update
    :return: its parameters, and what was decided and logged
    """
    log = model.logger.name_to_value
    names = (
        "approx_kl",
        "kl",
        "loss",
        "value_loss",
        "clip_fraction",
        "entropy_0",
        "grad_norm",
        "ratio_min",
        "ratio_max",
    )
    return {
        "parameters": th.nn.utils.parameters_to_vector(model.policy.parameters()).tolist(),
        "steps": model.num_gradient_steps,
        "epochs": model._n_updates,
        "controllers": {name: controller.value for name, controller in model._controllers.items()},
        "log": {name: float(log[f"train/{name}"]) for name in names},
    }


# ------------------------------------------------ scenarios, each of them on every rank


def updates(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """All cases of one update; the last one with advantages that each rank standardizes alone."""
    share = slice(ranks.rank * N_ENVS, (ranks.rank + 1) * N_ENVS)
    found = {case: outcome(update(case, share)) for case in UPDATES}
    from sb3_ppo_plus.distributed import moments, passes

    passes.over_all = lambda _, own: own  # type: ignore[assignment]
    found["alone"] = outcome(update("plain", share))
    passes.over_all = moments.over_all
    return found


def learning(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Two trainings, in SB3's rollout and in the tensor one."""
    return {
        "numpy": _learn(VecNormalize(vec("CartPole-v1", N_ENVS)), folder / f"log{ranks.rank}"),
        "tensors": _learn(TensorVecNormalize(TorchVecEnv("CartPole-v1", N_ENVS)), folder / f"log{ranks.rank}"),
    }


class Sees(BaseCallback):
    """Notes what callbacks are shown, and may want to end the training."""

    def __init__(self, ends_at: int | None = None) -> None:
        super().__init__()
        self.ends_at = ends_at
        self.timesteps: list[int] = []
        self.actions: list[Any] = []

    def _on_step(self) -> bool:
        self.timesteps.append(self.num_timesteps)
        if len(self.actions) < 8:
            self.actions.append(np.asarray(self.locals["actions"]).tolist())
        return self.ends_at is None or self.num_timesteps < self.ends_at


def _learn(env: VecEnv, log: Path) -> dict[str, Any]:
    n_rows = SIZE * N_STEPS * N_ENVS
    model = PPOPlus(
        "MlpPolicy", env, n_steps=N_STEPS, batch_size=16, n_epochs=2, seed=3, device="cpu", tensorboard_log=str(log)
    )
    first, sees = np.asarray(env.reset()), Sees()
    model.learn(4 * n_rows, sees)
    weights = _digest(model)
    # From here on the second rank alone wants to end, in the middle of a rollout.
    rank = 0 if model._ranks is None else model._ranks.rank
    model.learn(4 * n_rows, Sees(model.num_timesteps + n_rows + 20 if rank else None), reset_num_timesteps=False)
    normalizer = model.get_vec_normalize_env()
    assert normalizer is not None
    return {
        "first_obs": first.tolist(),
        "actions": sees.actions,
        "timesteps": sees.timesteps,
        "weights": weights,
        "weights_at_end": _digest(model),
        "ended_at": model.num_timesteps,
        "episodes": [[episode["r"], episode["l"]] for episode in model.ep_info_buffer or ()],
        "mean": normalizer.obs_rms.mean.tolist(),
        "var": normalizer.obs_rms.var.tolist(),
        "counts": [float(normalizer.obs_rms.count), float(normalizer.ret_rms.count)],
        "explained": float(model.logger.name_to_value["train/explained_variance"]),
        "files": sorted(str(path.relative_to(log)) for path in log.rglob("*") if path.is_file()),
    }


def _digest(model: PPOPlus) -> str:
    content = b"".join(parameter.detach().numpy().tobytes() for parameter in model.policy.parameters())
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def refusals(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """What does not fit together is an error on all ranks."""

    def said(act: Callable[[], Any]) -> str:
        try:
            act()
        except InvalidArgument as error:
            return str(error)
        return ""

    def model(**options: Any) -> PPOPlus:
        return PPOPlus("MlpPolicy", vec("CartPole-v1"), n_steps=16, batch_size=16, device="cpu", **options)

    trained = model()
    if ranks.rank == 1:
        for parameter in trained.policy.parameters():
            parameter.grad = th.ones_like(parameter)
        trained.policy.optimizer.step()
    saves = [SaveCheckpoints(folder)] if ranks.is_first else None
    return {
        "epochs": said(lambda: model(n_epochs=2 + ranks.rank).learn(32)),
        "timesteps": said(lambda: model().learn(64 * (1 + ranks.rank))),
        "optimizer": said(lambda: trained.learn(64)),
        "callbacks": said(lambda: model().learn(64, saves)),
    }


def _checkpointed(
    folder: Path, model: PPOPlus | None, kill_at: int | None = None, number: int = signal.SIGKILL
) -> PPOPlus:
    class Kills(BaseCallback):
        done = kill_at is None

        def _on_step(self) -> bool:
            if not self.done and self.num_timesteps >= (kill_at or 0):
                self.done = True
                os.kill(os.getpid(), number)
            return True

    env = VecNormalize(vec("Pendulum-v1", 2))
    if model is None:
        model = PPOPlus("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=2, seed=9, device="cpu", use_sde=True)
    model.learn(6 * SIZE * 32 * 2, [Kills(), SaveCheckpoints(folder, cost=0.0)])
    return model


def whole(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """A training without a break."""
    return {"digest": digest(_checkpointed(folder / "whole", None))}


def killed(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """The same, until rank 1 is killed in its fourth rollout."""
    return {"digest": digest(_checkpointed(folder / "cut", None, 3 * 128 + 30 if ranks.rank == 1 else None))}


def terminated(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """The same, until rank 1 gets a signal in its third rollout."""
    try:
        _checkpointed(folder / "cut", None, 2 * 128 + 30 if ranks.rank == 1 else None, signal.SIGTERM)
    except Preempted as preempted:
        return {"signal": int(preempted.signal)}
    return {}


def resumed(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """From the newest checkpoint to the end."""
    told: list[str] = []
    logging.getLogger("sb3_ppo_plus.checkpoint.api").addFilter(lambda record: not told.append(record.getMessage()))
    number, path = checkpoints_in(folder / "cut")[0]
    model = resume(path, VecNormalize(vec("Pendulum-v1", 2)), device="cpu")
    return {"from": number, "told": told, "digest": digest(_checkpointed(folder / "cut", model))}


def run_ranks(
    scenario: str, folder: Path, size: int = SIZE, wait: float = 90.0, script: str = __file__
) -> list[dict[str, Any]]:
    """
    Run a scenario in several processes.

    :param scenario: name of a function above, or of the script
    :param folder: where their files are
    :param size: number of processes
    :param wait: seconds until they are given up
    :param script: what each process runs, with the scenario and the folder as words
    :return: what each rank found; an empty mapping for one that did not come to its end
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = []
    for rank in range(size):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
        variables |= {"MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1}
        env = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        command = [sys.executable, script, scenario, str(folder)]
        processes.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=wait)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = []
    for rank, process in enumerate(processes):
        path = folder / f"rank{rank}.json"
        if process.returncode == 0:
            found.append(json.loads(path.read_text()))
        else:
            found.append({"code": process.returncode, "error": errors[rank]})
        path.unlink(missing_ok=True)
    return found


def _gloo_threads() -> list[str]:
    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.is_dir() else []
    return [name for name in names if "gloo" in name]


def be_a_rank(scenarios: Mapping[str, Any]) -> None:
    """
    Be one of the processes of :func:`run_ranks`.

    :param scenarios: functions by name
    """
    th.set_num_threads(1)
    folder = Path(sys.argv[2])
    with join(timeout=60.0) as ranks:
        answer = scenarios[sys.argv[1]](ranks, folder)
    if left := _gloo_threads():
        # They abort the process now and then, when they let go of a tensor while the interpreter ends.
        raise SystemExit(f"threads outlive the process group: {left}")
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    be_a_rank(globals())
