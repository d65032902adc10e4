"""Proof that a file acts as its model does: structure, random and recorded observations, and the closed loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.closed_loop import ClosedLoop, compare_in_env
from sb3_ppo_plus.export.heads import branch_sizes
from sb3_ppo_plus.export.metadata import SPEC, load_onnx, read_json, read_metadata
from sb3_ppo_plus.export.reference import FilePolicy, Reference, sample_masks, sample_observations
from sb3_ppo_plus.export.rounding import Twins
from sb3_ppo_plus.export.runner import OnnxPolicy
from sb3_ppo_plus.export.stages import Stage, read_wrappers, wrappers_of
from sb3_ppo_plus.export.structure import Finding, check_structure

# Largest difference of an action, per unit of its magnitude above one.
TOLERANCE = 1e-6
# A trained network can be farther than that from its own float64 twin. A file rounds in other places than the model, so
# it may differ by some times that, and never by more than the second number.
_ROUNDINGS, _MOST = 4.0, 1e-4
# Steps of a random sequence; states of recurrent policies and frame stacks need more than one.
_SEQUENCE = 20


@dataclass
class Verification:
    """
    What a verification found.

    :param structure: rules of the file, kept or not
    :param n_random: number of random observations
    :param random_difference: largest difference of an action on them, over max(1, its magnitude)
    :param rounding: largest difference between the model's network in float32 and in float64 on them
    :param tolerance: what is allowed
    :param loop: recorded observations and returns, None without an environment
    """

    structure: list[Finding] = field(default_factory=list)
    n_random: int = 0
    random_difference: float = 0.0
    rounding: float = 0.0
    tolerance: float = TOLERANCE
    loop: ClosedLoop | None = None

    @property
    def passed(self) -> bool:
        """Whether the file acts as the model does."""
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """What speaks against it, in words."""
        found = [f"{finding.rule}: {finding.consequence}" for finding in self.structure if not finding.kept]
        if not self.random_difference <= self.tolerance:
            found.append(f"random observations: actions differ by {self.random_difference:.2g}")
        if self.loop is not None:
            found += self.loop.failures(self.tolerance)
        return found

    def summary(self) -> dict[str, Any]:
        """
        :return: as a mapping, for the file's metadata
        """
        told: dict[str, Any] = {
            "passed": self.passed,
            "failures": self.failures,
            "rules": len(self.structure),
            "random_observations": self.n_random,
            "random_max_difference": self.random_difference,
            "model_float32_rounding": self.rounding,
            # Infinite for a variant, whose return decides; null in JSON.
            "tolerance": self.tolerance,
        }
        return {**told, **(self.loop.summary() if self.loop is not None else {})}

    def text(self) -> str:
        """
        :return: lines to print
        """
        kept = sum(finding.kept for finding in self.structure)
        lines = [f"  structure             {kept} of {len(self.structure)} rules kept"]
        lines += [
            f"    broken: {finding.rule}: {finding.consequence}" for finding in self.structure if not finding.kept
        ]
        lines.append(
            f"  random observations   {self.n_random:,}, largest difference {self.random_difference:.1e} "
            f"(allowed {self.tolerance:.1e}; float32 itself {self.rounding:.1e})"
        )
        if self.loop is not None:
            lines += self.loop.lines()
        lines.append(f"  verdict               {'acts as the model does' if self.passed else 'DIFFERS from the model'}")
        return "\n".join(lines)


def verify_onnx(
    path: str | os.PathLike[str],
    model: BaseAlgorithm,
    env: VecEnv | None = None,
    make_env: Callable[[int, int], VecEnv] | None = None,
    normalizer: VecNormalize | None = None,
    n_random: int = 1000,
    n_episodes: int = 20,
    seed: int = 3_000_000,
    tolerance: float = TOLERANCE,
) -> Verification:
    """
    Compare a file with the model that it was made from.

    :param path: ONNX file that :func:`~sb3_ppo_plus.export.export_onnx` wrote
    :param model: the model
    :param env: wrapped environments, of which only the wrappers are used; None for those of ``make_env`` or the model's
    :param make_env: from a number of environments and a seed to wrapped environments, statistics frozen and rewards as
        they are; with it, observations of real episodes and the returns of model and file are compared too
    :param normalizer: statistics, for a model whose environments are not there
    :param n_random: number of random observations, typically 1000
    :param n_episodes: episodes that model and file play each, typically 20 or more; more narrows the intervals
    :param seed: seed of observations and episodes
    :param tolerance: largest difference of an action, over max(1, its magnitude). Where float32 alone carries the model
        farther than a quarter of it from its float64 twin, four times that distance is allowed, at most 1e-4
    :return: what was found; it says whether the file passed
    :raises InvalidArgument: when the file cannot be read, or does not belong to such a model
    """
    path = Path(path)
    for name, value in (("n_random", n_random), ("n_episodes", n_episodes)):
        if value < 1:
            raise InvalidArgument(f"{name}={value} must be at least 1")
    file = load_onnx(path)
    found = Verification(structure=check_structure(file), tolerance=tolerance)
    variant = read_json(read_metadata(file), SPEC).get("size", "fp32") != "fp32"
    if variant and make_env is None:
        raise InvalidArgument(f"{path} is a smaller variant, which is judged by its return alone; give an environment")
    if variant:
        found.tolerance = float("inf")
    if any(finding.fatal and not finding.kept for finding in found.structure):
        found.random_difference = float("nan")
        return found
    probe = make_env(1, seed) if make_env is not None and env is None else None
    wrapped = env or probe or model.get_env()
    try:
        space, stages = read_wrappers(wrapped) if wrapped is not None else (model.observation_space, [])
        chain = wrappers_of(wrapped) if wrapped is not None else []
        reference = Reference(model, chain, normalizer)
        found.n_random = _SEQUENCE * max(1, -(-n_random // _SEQUENCE))
        found.random_difference, found.rounding = _compare_random(path, reference, space, stages, found.n_random, seed)
        found.tolerance = max(found.tolerance, min(_MOST, _ROUNDINGS * found.rounding))
    finally:
        if probe is not None:
            probe.close()
    if make_env is not None:
        found.loop = compare_in_env(model, path, make_env, n_episodes, seed, reference.wrappers)
    return found


def _compare_random(
    path: Path, reference: Reference, space: spaces.Space, stages: list[Stage], n: int, seed: int
) -> tuple[float, float]:
    """
    Largest difference over sequences of random observations, in which episodes begin anew now and then, and rounding.
    """
    policy, rng, rows = FilePolicy(OnnxPolicy(path)), np.random.default_rng(seed), n // _SEQUENCE
    sizes = branch_sizes(reference.model.action_space) if reference.masked else None
    twins, largest, rounding = Twins(reference.model), 0.0, 0.0
    for step in range(_SEQUENCE):
        obs = sample_observations(space, rows, rng, stages)
        masks = sample_masks(sizes, rows, rng) if sizes is not None else None
        begins = np.full(rows, True) if step == 0 else rng.random(rows) < 0.1
        reference.predict(obs, begins, masks)
        assert reference.latest is not None
        largest = max(largest, reference.gap(policy.step(obs, begins, masks)))
        rounding = max(rounding, twins.measure(reference.latest.seen, masks))
    return largest, rounding
