"""
Whether the doctor is right: trainings with a known fault, and healthy ones, each told to it as any other.

    python benchmarks/doctor_faults.py              # runs what is missing, prints and writes the tables
    python benchmarks/doctor_faults.py --calibrate  # the seeds on which limits were set; their results are not kept

A fault counts as found when one of its codes is told as a warning or an alarm within `--updates` updates. A healthy
run, of the blocks in zoo_configs, counts against the doctor when it is told any warning or alarm.
Results are kept one a line as they come, and a second call does what is missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from common import append, commit, load, machine, results_file, silenced
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.doctor import DoctorCallback, Severity
from sb3_ppo_plus.runs.config import config_from_mapping
from sb3_ppo_plus.runs.envs import make_training_env
from sb3_ppo_plus.runs.hyperparameters import build_policy_kwargs
from sb3_ppo_plus.runs.layers import zoo_block

CALIBRATION_SEEDS, SEEDS, HEALTHY_SEEDS = range(2), range(100, 102), range(100, 105)
WITHIN = 30
CLASSIC, ROBOTS = ("CartPole-v1", "Pendulum-v1"), ("HalfCheetah-v5", "Hopper-v5")
CONTINUOUS = ("Pendulum-v1", *ROBOTS)
ALL = (*CLASSIC, *ROBOTS)
HEALTHY = (*ALL, "Acrobot-v1", "Swimmer-v5")
# Steps of a healthy run: the whole block, or as much of it as shows every phase.
HEALTHY_STEPS = {
    **{"CartPole-v1": 100_000, "Pendulum-v1": 100_000, "Acrobot-v1": 100_000},
    **{"HalfCheetah-v5": 200_000, "Hopper-v5": 200_000, "Swimmer-v5": 100_000},
}


class Tampered(gym.Wrapper):
    """
    An environment with a fault.

    :param env: environment
    :param reward: what becomes of a reward, given the reward and a random number
    :param obs: what becomes of an observation
    :param frozen: whether the state stands still
    :param terminates: whether time limits are reported as failures
    :param scale: factor on the bounds of the actions
    :param seed: the seed of every reset, None for the one that is given
    """

    def __init__(
        self,
        env: gym.Env,
        reward: Callable[[float, float], float] | None = None,
        obs: Callable[[np.ndarray], np.ndarray] | None = None,
        frozen: bool = False,
        terminates: bool = False,
        scale: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(env)
        self.change_reward, self.change_obs, self.frozen = reward, obs, frozen
        self.terminates, self.scale, self.own_seed = terminates, scale, seed
        self.chance = np.random.default_rng()
        self.held: Any = None
        if scale != 1.0:
            assert isinstance(env.action_space, spaces.Box)
            space = env.action_space
            self.action_space = spaces.Box(space.low * scale, space.high * scale, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        if seed is not None:
            self.chance = np.random.default_rng(seed)
        obs, info = self.env.reset(
            seed=seed if self.own_seed is None or seed is None else self.own_seed, options=options
        )
        self.held = self._seen(obs)
        return self.held, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if self.scale != 1.0:
            action = action / self.scale
        if self.frozen:
            return self.held, 1.0, False, False, {}
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self.change_reward is not None:
            reward = self.change_reward(float(reward), self.chance.random())
        if self.terminates:
            terminated, truncated = terminated or truncated, False
        return self._seen(obs), reward, terminated, truncated, info

    def _seen(self, obs: Any) -> Any:
        return obs if self.change_obs is None else self.change_obs(obs).astype(obs.dtype)


@dataclass(frozen=True)
class Fault:
    """
    A fault, and what the doctor should call it.

    :param codes: the right answers
    :param envs: environments in which it is a fault
    :param tamper: arguments of :class:`Tampered`
    :param settings: settings that differ from the block
    :param scaled: settings that are a multiple of the block's
    :param prepare: what is done to the model
    :param measured: whether what follows from the settings alone does not count
    """

    codes: tuple[str, ...]
    envs: tuple[str, ...] = ALL
    tamper: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    scaled: dict[str, float] = field(default_factory=dict)
    prepare: Callable[[PPOPlus], None] | None = None
    measured: bool = False


def freeze_actor(model: PPOPlus) -> None:
    """No gradient reaches the actor, as after a detach()."""
    policy = model.policy
    for part in (policy.mlp_extractor.policy_net, policy.action_net):
        part.requires_grad_(False)
    if hasattr(policy, "log_std"):
        policy.log_std.requires_grad_(False)


def make_certain(model: PPOPlus) -> None:
    """The policy begins with nearly no entropy."""
    with th.no_grad():
        if hasattr(model.policy, "log_std"):
            model.policy.log_std.fill_(-6.0)
        else:
            model.policy.action_net.bias[0] = 12.0


def kill_units(model: PPOPlus) -> None:
    """Units of the actor that never answer: ReLU behind a large negative bias, tanh behind a large one."""
    with th.no_grad():
        for layer in model.policy.mlp_extractor.policy_net:
            if isinstance(layer, th.nn.Linear):
                layer.bias[: int(0.8 * len(layer.bias))] = -50.0


FAULTS: dict[str, Fault] = {
    "learning rate x 100": Fault(("learning-rate-high", "kl-high"), scaled={"learning_rate": 100.0}, measured=True),
    "learning rate / 1,000": Fault(("learning-rate-low",), scaled={"learning_rate": 1e-3}, measured=True),
    "normalization off": Fault(("observation-scale",), ROBOTS, settings={"normalize": False}),
    "one seed for all": Fault(("envs-duplicate",), tamper={"seed": 3}),
    "reward x 1,000": Fault(("reward-scale",), CLASSIC, tamper={"reward": lambda r, _: 1e3 * r}),
    "reward x 1,000, raw": Fault(
        ("reward-scale",),
        ROBOTS,
        tamper={"reward": lambda r, _: 1e3 * r},
        settings={"normalize": {"norm_reward": False}},
    ),
    "entropy 0": Fault(("entropy-collapse",), prepare=make_certain, settings={"use_sde": False}),
    "entropy bonus 1": Fault(("entropy-coef-high", "entropy-runaway"), settings={"ent_coef": 1.0}),
    "critic rate 0": Fault(("critic-lagging",), settings={"critic_learning_rate": 1e-9}),
    "action bounds x 0.01": Fault(("action-saturation",), CONTINUOUS, tamper={"scale": 0.01}),
    "truncation as termination": Fault(
        ("truncation-missing",), ("Pendulum-v1", "HalfCheetah-v5"), {"terminates": True}
    ),
    "epochs x 10": Fault(("epochs-many",), scaled={"n_epochs": 10}),
    "epochs x 10, by what they do": Fault(
        ("epochs-many", "kl-high", "clip-fraction-high"), ROBOTS, scaled={"n_epochs": 10}, measured=True
    ),
    "minibatches of 4": Fault(("batch-small",), settings={"batch_size": 4}),
    "constant observation": Fault(("observation-constant",), tamper={"obs": lambda o: 0.0 * o + 1.0}),
    "NaN reward": Fault(("nonfinite",), tamper={"reward": lambda r, u: float("nan") if u < 5e-3 else r}),
    "detached actor": Fault(("policy-frozen",), prepare=freeze_actor),
    "frozen environment": Fault(("observation-constant", "reward-constant"), tamper={"frozen": True}),
    "no reward": Fault(("reward-sparse",), tamper={"reward": lambda r, _: 0.0}),
    "rare huge rewards": Fault(
        ("advantage-outlier", "reward-scale", "critic-lagging", "critic-blowup", "gradient-spike"),
        tamper={"reward": lambda r, u: 1e5 if u < 1e-3 else r},
        settings={"normalize": {"norm_reward": False}},
    ),
    "clip range 2": Fault(("clip-range-wide",), settings={"clip_range": 2.0}),
    "dead units": Fault(("dead-units",), prepare=kill_units),
    "no value loss": Fault(("critic-unweighted", "critic-lagging"), settings={"vf_coef": 0.0}),
}


class Witness(DoctorCallback):
    """Notes at which update each code was told, and ends the training once what is wanted was."""

    def __init__(self, wanted: Sequence[str] = (), measured: bool = False) -> None:
        super().__init__()
        self.wanted, self.measured = wanted, measured
        self.told: dict[str, list[Any]] = {}

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if self.measured:
            self.journal.entries.clear()
            self.told.clear()
            self._stopping = False

    def _tell(self, findings: list[Any]) -> None:
        for finding in findings:
            self.told[finding.code] = [finding.severity.word, len(self.history), round(finding.value, 5)]
            if finding.code in self.wanted and finding.severity >= Severity.WARNING:
                self._stopping = True


def scaled(value: Any, times: float) -> Any:
    """
    :param value: a number, or a line to zero in the zoo's form
    :param times: factor
    :return: the same form
    """
    if isinstance(value, str):
        kind, _, start = value.partition("_")
        return f"{kind}_{times * float(start)}"
    return type(value)(times * value)


def build(env_id: str, seed: int, fault: Fault | None) -> PPOPlus:
    """
    :param env_id: environment
    :param seed: seed of everything
    :param fault: fault, None for a healthy run
    :return: the model of the zoo's block
    """
    block = zoo_block(env_id)
    if fault is not None:
        block |= fault.settings
        block |= {name: scaled(block[name], times) for name, times in fault.scaled.items()}
    config = config_from_mapping({**block, "env": env_id, "seed": seed})
    hyperparameters = {**config.hyperparameters}
    bare: VecEnv | None = None
    if fault is not None and fault.tamper:
        arguments = {"wrapper_class": Tampered, "wrapper_kwargs": fault.tamper}
        bare = make_vec_env(env_id, config.n_envs, seed=seed, **arguments)
    if config.normalize:
        options = config.normalize if isinstance(config.normalize, dict) else {}
        config = replace(config, normalize={"gamma": hyperparameters["gamma"], **options})
    env = make_training_env(config, bare)
    hyperparameters["policy_kwargs"] = build_policy_kwargs(hyperparameters.get("policy_kwargs"))
    model = PPOPlus(config.policy or "MlpPolicy", env, seed=seed, device="cpu", **hyperparameters)
    if fault is not None and fault.prepare is not None:
        fault.prepare(model)
    return silenced(model)


def run(env_id: str, seed: int, name: str, within: int) -> dict[str, Any]:
    """
    :param env_id: environment
    :param seed: seed
    :param name: name of the fault, ``healthy`` for none
    :param within: updates in which a fault must be found
    :return: the record of the run
    """
    fault = FAULTS.get(name)
    model = build(env_id, seed, fault)
    rows = model.n_steps * model.n_envs
    total = HEALTHY_STEPS[env_id] if fault is None else within * rows
    witness = Witness(fault.codes, fault.measured) if fault is not None else Witness()
    started, ended_by = time.perf_counter(), ""
    try:
        model.learn(total, callback=witness)
    except (ValueError, RuntimeError) as error:  # NaN ends a training one way or the other
        ended_by = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    seconds = time.perf_counter() - started
    model.get_env().close()
    codes = fault.codes if fault is not None else ()
    found = [witness.told[code] for code in codes if code in witness.told and witness.told[code][0] != "info"]
    return {
        "fault": name,
        "env": env_id,
        "seed": seed,
        "updates": len(witness.history),
        "found_at": min((update for _, update, _ in found), default=None),
        "told": witness.told,
        "seconds": round(seconds, 2),
        "doctor_seconds": round(witness.seconds, 3),
        "ended_by": ended_by,
        "commit": commit(),
    }


# ------------------------------------------------ tables


def report(records: list[dict[str, Any]], within: int) -> str:
    """
    :param records: of faults and healthy runs
    :param within: updates in which a fault must be found
    :return: the tables as Markdown
    """
    faulty = [record for record in records if record["fault"] in FAULTS]
    healthy = [record for record in records if record["fault"] == "healthy"]
    seeds = f"{CALIBRATION_SEEDS[0]} and {CALIBRATION_SEEDS[-1]}"
    lines = [
        "# The doctor against known faults",
        "",
        f"`python benchmarks/doctor_faults.py`: {len(faulty)} trainings with one of {len(FAULTS)} faults, "
        f"{len(healthy)} healthy ones. Limits were set on seeds {seeds}; these are seeds from {SEEDS[0]}.",
        "",
        f"Machine: {machine()}; commits {', '.join(sorted({record['commit'] for record in records}))}.",
        "",
        *_summary(faulty, healthy, within),
        "## Faults",
        "",
        "0 updates: found from the settings alone; for learning rates and epochs by what they do that does not count.",
        "",
        "| fault | right codes | environments | found | updates until found (median, most) |",
        "|---|---|---|---|---|",
        *[_fault_line(name, [record for record in faulty if record["fault"] == name]) for name in FAULTS],
        "",
        "## Healthy runs",
        "",
        "| environment | runs | updates | runs with a warning or alarm | which |",
        "|---|---|---|---|---|",
        *[_healthy_line(env, [record for record in healthy if record["env"] == env]) for env in HEALTHY],
        "",
    ]
    return "\n".join(lines)


def _summary(faulty: list[dict[str, Any]], healthy: list[dict[str, Any]], within: int) -> list[str]:
    found = sum(record["found_at"] is not None for record in faulty)
    alarmed = sum(bool(_alarms(record)) for record in healthy)
    spent = sum(record["doctor_seconds"] for record in healthy) / max(
        1e-9, sum(record["seconds"] for record in healthy)
    )
    shares = [record["doctor_seconds"] / record["seconds"] for record in healthy if record["seconds"]]
    within_reach = f"{found} of {len(faulty)} ({_percent(found, len(faulty))})"
    false_alarms = f"{alarmed} of {len(healthy)} ({_percent(alarmed, len(healthy))})"
    largest = max(shares, default=0.0)
    return [
        "| | |",
        "|---|---|",
        f"| faults found with the right code within {within} updates | {within_reach} |",
        f"| healthy runs with any warning or alarm | {false_alarms} |",
        f"| share of the training's time, healthy runs | {spent:.2%}; largest of a run {largest:.2%} |",
        "",
    ]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "none ran"


def _fault_line(name: str, records: list[dict[str, Any]]) -> str:
    fault = FAULTS[name]
    at = [record["found_at"] for record in records if record["found_at"] is not None]
    when = f"{np.median(at):.0f}, {max(at)}" if at else "-"
    codes = ", ".join(f"`{code}`" for code in fault.codes)
    missed = [f"{record['env']} seed {record['seed']}" for record in records if record["found_at"] is None]
    note = f" (not: {', '.join(missed)})" if missed else ""
    envs = ", ".join(env.partition("-")[0] for env in fault.envs)
    return f"| {name} | {codes} | {envs} | {len(at)} of {len(records)}{note} | {when} |"


def _healthy_line(env: str, records: list[dict[str, Any]]) -> str:
    alarmed = [record for record in records if _alarms(record)]
    which = "; ".join(f"seed {record['seed']}: {', '.join(_alarms(record))}" for record in alarmed) or "-"
    updates = f"{records[0]['updates']}" if records else "-"
    return f"| {env} | {len(records)} | {updates} | {len(alarmed)} | {which} |"


def _alarms(record: dict[str, Any]) -> list[str]:
    return [code for code, (severity, _, _) in record["told"].items() if severity != "info"]


def plan(seeds: Sequence[int], healthy_seeds: Sequence[int], only: str) -> list[tuple[str, str, int]]:
    """
    :param seeds: of the faults
    :param healthy_seeds: of the healthy runs
    :param only: part of the name of a fault or environment, empty for all
    :return: name, environment and seed of each run
    """
    runs = [(name, env, seed) for seed in seeds for name, fault in FAULTS.items() for env in fault.envs]
    runs += [("healthy", env, seed) for seed in healthy_seeds for env in HEALTHY]
    return [(name, env, seed) for name, env, seed in runs if only in name or only in env]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrate", action="store_true", help="the seeds on which limits are set")
    parser.add_argument("--updates", type=int, default=WITHIN, help="updates in which a fault must be found")
    parser.add_argument("--only", default="", help="part of the name of a fault, or of an environment")
    parser.add_argument("--results", type=Path, default=None)
    args = parser.parse_args()
    th.set_num_threads(1)
    seeds, healthy = (CALIBRATION_SEEDS[:1], CALIBRATION_SEEDS) if args.calibrate else (SEEDS, HEALTHY_SEEDS)
    with results_file(args.results, "doctor_faults.jsonl", quick=args.calibrate) as path:
        done = {(record["fault"], record["env"], record["seed"]) for record in load(path)}
        for name, env, seed in plan(seeds, healthy, args.only):
            if (name, env, seed) in done:
                continue
            record = run(env, seed, name, args.updates)
            append(path, record)
            told = {code: entry for code, entry in record["told"].items() if entry[0] != "info"}
            print(
                f"{name:28} {env:16} {seed:4} {record['found_at']!s:>5} {record['seconds']:6.1f} s  {told}", flush=True
            )
        text = report(load(path), args.updates)
        print(text)
        if not args.calibrate:
            atomic_write(path.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
