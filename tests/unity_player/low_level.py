"""The stand-in as ML-Agents' own low-level API sees it, and accounts of what it pays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from build import free_port, make_build

from sb3_ppo_plus.envs.unity import messages

# Before anything of mlagents_envs; whoever imports this module may import the rest of it in the usual way.
messages.install()

from mlagents_envs.base_env import ActionTuple  # noqa: E402
from mlagents_envs.environment import UnityEnvironment  # noqa: E402

Policy = Callable[[Any, Any], ActionTuple]

START = 30
"""Seconds for a player to start."""


class Connection:
    """
    A player that was started by the low-level API.

    :param folder: for the build and the player's log
    :param scene: what it plays
    :param timeout: seconds to wait once it has started, which may take START; the API looks after the process every
        tenth of them, in whole seconds
    :param side_channels: side channels
    :param options: of the player
    """

    def __init__(
        self, folder: Path, scene: str, timeout: int = 10, side_channels: list[Any] | None = None, **options: Any
    ) -> None:
        self.log_file = folder / "player.log"
        build = make_build(folder, scene, player_log=self.log_file, **options)
        self.port = free_port()
        self.env = UnityEnvironment(
            str(build), base_port=self.port, seed=5, timeout_wait=START, side_channels=side_channels, no_graphics=True
        )
        # A start takes as long as the machine is slow; only what hangs afterwards is waited for in vain.
        self.env._timeout_wait = self.env._communicator.timeout_wait = timeout
        self.process = self.env._process

    def log(self, key: str) -> list[dict[str, Any]]:
        """What the player wrote down under a name."""
        entries = [json.loads(line) for line in self.log_file.read_text().splitlines()]
        return [entry for entry in entries if key in entry]

    def close(self) -> None:
        """Close, if that has not been done, and see that nothing is left."""
        if self.env._loaded:
            self.env.close()
        assert self.process.wait(10) is not None


class Ledger:
    """Adds up what each agent gets, and keeps what came with the end of its episodes."""

    def __init__(self) -> None:
        self.open: dict[int, dict[str, Any]] = {}
        self.episodes: list[dict[str, Any]] = []
        self.exchanges: list[tuple[list[int], list[int]]] = []
        self.first_rewards: list[float] = []

    def note(self, decisions: Any, terminals: Any) -> None:
        """Take in what one exchange has brought of one behavior."""
        self.exchanges.append((terminals.agent_id.tolist(), decisions.agent_id.tolist()))
        for agent, step in terminals.items():
            episode = self.open.pop(agent)
            episode["return"] += float(step.reward)
            episode["group return"] += float(step.group_reward)
            self.episodes.append(episode | {"interrupted": bool(step.interrupted), "last": step.obs})
        for agent, step in decisions.items():
            if agent in self.open:
                self.open[agent]["return"] += float(step.reward)
                self.open[agent]["group return"] += float(step.group_reward)
                self.open[agent]["decisions"] += 1
            else:
                self.first_rewards.append(float(step.reward))
                start = {"id": agent, "return": 0.0, "group return": 0.0, "group": int(step.group_id)}
                self.open[agent] = start | {"decisions": 1, "first": step.obs}


def play(env: Any, policy: Policy, n_exchanges: int) -> dict[str, Ledger]:
    """Play with one policy for all behaviors."""
    ledgers: dict[str, Ledger] = {}
    for _ in range(n_exchanges):
        for name, spec in env.behavior_specs.items():
            decisions, terminals = env.get_steps(name)
            ledgers.setdefault(name, Ledger()).note(decisions, terminals)
            if len(decisions):
                env.set_actions(name, policy(spec.action_spec, decisions))
        env.step()
    return ledgers


def at_random(seed: int = 0) -> Policy:
    """Random actions, of those that are allowed."""
    rng = np.random.default_rng(seed)

    def act(spec: Any, decisions: Any) -> ActionTuple:
        n = len(decisions)
        continuous = rng.uniform(-1.0, 1.0, (n, spec.continuous_size)).astype(np.float32)
        scores = [rng.random((n, size)) - 2.0 * mask for size, mask in zip_branches(spec, decisions)]
        discrete = np.array([score.argmax(axis=1) for score in scores], np.int32).T.reshape(n, spec.discrete_size)
        return ActionTuple(continuous, discrete)

    return act


def zip_branches(spec: Any, decisions: Any) -> list[tuple[int, np.ndarray]]:
    """Number of choices and what is forbidden, for each branch."""
    return list(zip(spec.discrete_branches, decisions.action_mask or [], strict=True))


def echo(spec: Any, decisions: Any) -> ActionTuple:
    """Say what is heard."""
    wanted = decisions.obs[0][:, 3:]
    n = spec.continuous_size
    return ActionTuple(wanted[:, :n].astype(np.float32), wanted[:, n:].astype(np.int32))
