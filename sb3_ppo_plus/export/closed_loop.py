"""Model and file play the same environment: differences on real observations, and returns with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.envs.episodes import FirstEpisodes, agents_come_and_go
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.heads import takes_masks
from sb3_ppo_plus.export.reference import FilePolicy, Reference, RoundedObservations
from sb3_ppo_plus.export.runner import OnnxPolicy

# Episodes that step together.
_ENVS = 20
# Two-sided 97.5 % points of Student's t for 1, 2, ... degrees of freedom; the normal one beyond.
_T = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
    2.12, 2.11, 2.10, 2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
)  # fmt: skip
Act = Callable[[Any, Any, np.ndarray, "np.ndarray | None"], np.ndarray]


@dataclass(frozen=True)
class ClosedLoop:
    """
    What playing the environment showed.

    :param n_recorded: number of observations that the environment gave while the model played
    :param recorded_difference: largest difference of an action on them, over max(1, its magnitude), beyond what
        ``recorded_rounding`` explains
    :param recorded_rounding: how far the model's own actions move when its observations are rounded to float32, which
        is what a file takes; large where the deviation that a normalizer divides by is small against the number itself
    :param model_returns: return of each episode of the model
    :param file_returns: return of each episode of the file, from the same seeds
    """

    n_recorded: int
    recorded_difference: float
    recorded_rounding: float
    model_returns: list[float]
    file_returns: list[float]

    def failures(self, tolerance: float) -> list[str]:
        """
        :param tolerance: largest difference allowed
        :return: what speaks against the file, in words
        """
        found = []
        if not self.recorded_difference <= tolerance:
            found.append(f"recorded observations: actions differ by {self.recorded_difference:.2g}")
        (model, low, high), (_, file_low, file_high) = interval(self.model_returns), interval(self.file_returns)
        # One episode has no interval; equal episodes have one without width, and rounding is not meant.
        slack = 1e-3 * max(1.0, abs(model))
        if len(self.model_returns) > 1 and (file_low > high + slack or file_high < low - slack):
            found.append(f"returns: {describe(self.file_returns)}, the model has {describe(self.model_returns)}")
        return found

    def summary(self) -> dict[str, Any]:
        """
        :return: as JSON
        """
        return {
            "recorded_observations": self.n_recorded,
            "recorded_max_difference": self.recorded_difference,
            "recorded_float32_rounding": self.recorded_rounding,
            "episodes": len(self.model_returns),
            "model_return_ci95": list(interval(self.model_returns)),
            "file_return_ci95": list(interval(self.file_returns)),
        }

    def lines(self) -> list[str]:
        """
        :return: lines to print
        """
        rounding = f" (rounding them to float32 {self.recorded_rounding:.1e})" if self.recorded_rounding else ""
        return [
            f"  recorded observations {self.n_recorded:,}, largest difference {self.recorded_difference:.1e}{rounding}",
            f"  return of the model   {describe(self.model_returns)}",
            f"  return of the file    {describe(self.file_returns)}",
        ]


def interval(returns: list[float]) -> tuple[float, float, float]:
    """
    :param returns: return of each episode
    :return: mean and its 95 % confidence interval by Student's t; with one episode, the interval is that point
    """
    mean, n = float(np.mean(returns)), len(returns)
    if n < 2:
        return mean, mean, mean
    t = _T[n - 2] if n - 2 < len(_T) else 1.96
    half = t * float(np.std(returns, ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


def describe(returns: list[float]) -> str:
    """
    :param returns: return of each episode
    :return: mean and interval in words
    """
    mean, low, high = interval(returns)
    return f"{mean:,.1f} [{low:,.1f}, {high:,.1f}] (95 % CI, {len(returns)} episode{'s'[: len(returns) > 1]})"


def compare_in_env(
    model: BaseAlgorithm,
    path: Path,
    make_env: Callable[[int, int], VecEnv],
    n_episodes: int,
    seed: int,
    wrappers: Sequence[Any] = (),
) -> ClosedLoop:
    """
    Play episodes with the model, comparing the file on every observation, then with the file alone.

    :param model: the model
    :param path: ONNX file
    :param make_env: from a number of environments and a seed to wrapped environments
    :param n_episodes: episodes of each
    :param seed: seed of the environments
    :param wrappers: those of the environments, innermost first, to tell what rounding observations does
    :return: what was found
    """
    masked, file, gaps, roundings = takes_masks(model), FilePolicy(OnnxPolicy(path)), [], [0.0]
    # The environment's own wrappers are at work, so nothing is left to transform.
    reference, rounded = Reference(model, []), RoundedObservations(model, wrappers)

    def as_model(raw: Any, seen: Any, begins: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        actions = reference.predict(seen, begins, masks)
        given = file.step(raw, begins, masks)
        rounding, gap = rounded.measure(raw, begins, masks, given)
        roundings.append(rounding)
        gaps.append(max(gap, reference.gap(given) - rounding))
        return actions

    alone = FilePolicy(OnnxPolicy(path))
    model_returns, n_recorded = play(make_env, n_episodes, seed, as_model, masked)
    file_returns, _ = play(
        make_env, n_episodes, seed, lambda raw, _, begins, masks: alone.step(raw, begins, masks), masked
    )
    return ClosedLoop(n_recorded, max(gaps), max(roundings), model_returns, file_returns)


def play(
    make_env: Callable[[int, int], VecEnv], n_episodes: int, seed: int, act: Act, masked: bool
) -> tuple[list[float], int]:
    """
    Play episodes to their end, the same number in each environment, so that short ones are not preferred.

    :param make_env: from a number of environments and a seed to wrapped environments
    :param n_episodes: number of episodes
    :param seed: seed of the environments
    :param act: from the raw and the wrapped observation, the flags of beginning rows and the masks to actions
    :param masked: whether to ask the environments for masks
    :return: returns, and the number of observations seen
    """
    env = make_env(min(_ENVS, n_episodes), seed)
    try:
        tap, n_envs = Tap(env), env.num_envs
        if agents_come_and_go(env):
            return _play_first(env, tap, n_episodes, act, masked)
        wanted = np.array([(n_episodes + index) // n_envs for index in range(n_envs)])
        seen, begins = env.reset(), np.ones(n_envs, bool)
        totals, n_seen = np.zeros(n_envs), 0
        returns: list[list[float]] = [[] for _ in range(n_envs)]
        while (np.array([len(done) for done in returns]) < wanted).any():
            masks = masks_of(env) if masked else None
            actions = act(tap.raw, seen, begins, masks)
            n_seen += n_envs
            seen, rewards, begins, infos = env.step(actions)
            totals += rewards
            for index in np.flatnonzero(begins):
                episode = infos[index].get("episode")
                returns[index].append(float(episode["r"] if episode is not None else totals[index]))
                totals[index] = 0.0
    finally:
        env.close()
    return [value for done, n in zip(returns, wanted, strict=True) for value in done[:n]], n_seen


def _play_first(env: VecEnv, tap: Tap, n_episodes: int, act: Act, masked: bool) -> tuple[list[float], int]:
    """The first episodes that begin, of agents that come and go."""
    episodes, n_seen = FirstEpisodes(n_episodes, env.num_envs), 0
    seen, begins = env.reset(), np.ones(env.num_envs, bool)
    while not episodes.complete:
        actions = act(tap.raw, seen, begins, masks_of(env) if masked else None)
        n_seen += env.num_envs
        seen, _, begins, infos = env.step(actions)
        episodes.note(begins, infos)
    return [float(episode["r"]) for episode in episodes.ended], n_seen


def masks_of(env: VecEnv) -> np.ndarray:
    """
    :param env: environments
    :return: allowed actions of each, by sb3-contrib's convention [N, L]
    :raises InvalidArgument: when they offer none
    """
    try:
        return np.stack(env.env_method("action_masks")).reshape(env.num_envs, -1)
    except AttributeError as missing:
        raise InvalidArgument(
            f"the policy takes masks, and the environment has no method action_masks(): {missing}"
        ) from missing


class Tap:
    """
    Keeps the observations that the innermost environments give, while their wrappers go on as before.

    :param env: wrapped environments
    """

    def __init__(self, env: VecEnv) -> None:
        self.raw: Any = None
        base: Any = env.unwrapped if hasattr(env, "venv") else env
        for name in ("reset", "step_wait", "reset_tensors", "step_tensors"):
            if hasattr(base, name):
                setattr(base, name, self._listen(getattr(base, name)))

    def _listen(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def listening(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            obs = result[0] if isinstance(result, tuple) else result
            parts = obs if isinstance(obs, dict) else {"": obs}
            raw = {key: _array(part) for key, part in parts.items()}
            self.raw = raw if isinstance(obs, dict) else raw[""]
            return result

        return listening


def _array(part: Any) -> np.ndarray:
    """A copy on the host, since environments write into what they gave."""
    return np.array(part.detach().cpu().numpy() if hasattr(part, "detach") else part)
