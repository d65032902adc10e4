"""What tests of Unity games share: builds of the stand-in, and an account of right returns that is kept apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "unity_player"))

from build import make_build

from sb3_ppo_plus.envs.unity.vec_env import UnityVecEnv


def make_game(folder: Path, scene: str, options: dict[str, Any] | None = None, **arguments: Any) -> UnityVecEnv:
    """Make an environment of a scene of the stand-in; whoever makes it closes it."""
    build = make_build(folder, scene, player_log=folder / "player.log", **(options or {}))
    return UnityVecEnv(build, **{"seed": 3, "timeout": 60, "graphics": False, **arguments})


def player_log(folder: Path) -> list[dict[str, Any]]:
    """Read what the stand-in wrote down."""
    return [json.loads(line) for line in (folder / "player.log").read_text().splitlines()]


class EchoAccount:
    """
    What an echo's agents were asked for and what they did, kept by the test, and what must come of it.

    :param n_continuous: continuous actions
    :param n_branches: branches
    """

    def __init__(self, n_continuous: int, n_branches: int) -> None:
        self.n, self.b = n_continuous, n_branches
        self.expected: dict[int, list[float]] = {}
        self.n_episodes = 0
        self.mistakes: list[str] = []

    def reward(self, obs: np.ndarray, action: np.ndarray) -> float:
        """What the scene pays for an action."""
        wanted, choices = obs[3 : 3 + self.n], obs[3 + self.n :]
        error = 0.0
        if self.n:
            error += float(np.abs(action[: self.n].astype(np.float32) - wanted).mean()) / 2.0
        if self.b:
            error += float((np.rint(action[self.n :]) != choices).mean()) / 2.0
        return 1.0 - error

    def note(
        self, obs: np.ndarray, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, infos: list[Any]
    ) -> None:
        """Take in a step, whose rewards may be of earlier actions, and check every episode that ended."""
        for row, info in enumerate(infos):
            if not info["invalid_row"]:
                self.expected.setdefault(row, []).append(self.reward(obs[row], np.atleast_1d(actions[row])))
            if not dones[row]:
                continue
            self.n_episodes += 1
            due = self.expected.pop(row, [])
            final = info["terminal_observation"]
            number, episode, decision, *rest = final.tolist()
            claims = {
                "return": abs(info["episode"]["r"] - sum(due)) < 1e-4,
                "length": info["episode"]["l"] == len(due),
                "terminal observation": number == obs[row][0] and decision >= len(due) and not any(rest),
                "interruption": info["TimeLimit.truncated"] == (episode % 2 == 1),
            }
            for claim, right in claims.items():
                if not right:
                    self.mistakes.append(f"{claim} in row {row}: {info} after {due}")
