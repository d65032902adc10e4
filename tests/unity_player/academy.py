"""The order of events of a Unity academy and its agents; see README.md."""

from __future__ import annotations

from typing import Any

import numpy as np


class Agent:
    """
    One agent.

    :param behavior: name of its behavior
    :param period: academy steps between two decisions
    :param offset: academy step, modulo the period, in which it asks
    :param max_step: academy steps after which its episode is interrupted, 0 for never
    """

    n_continuous = 0
    branches: tuple[int, ...] = ()
    group_id = 0
    _next_id = 0

    def __init__(self, behavior: str, period: int = 1, offset: int = 0, max_step: int = 0) -> None:
        self.behavior, self.period, self.offset, self.max_step = behavior, period, offset, max_step
        self.enable()

    def enable(self) -> None:
        """Appear in the scene, with a new id and a new episode."""
        Agent._next_id += 1
        self.id = Agent._next_id
        self.reward = self.group_reward = 0.0
        self.step_count = 0
        self.asks = self.acts = False
        self.done = False
        self.alive = True
        self.actions = self.no_actions()
        self.records: list[tuple[bool, bool, float, float, list[Any], list[bool] | None]] = []
        self.begin()

    def no_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """What an agent does that was never answered."""
        return np.zeros(self.n_continuous, np.float32), np.zeros(len(self.branches), int)

    # What a scene overrides.

    def begin(self) -> None:
        """Begin an episode (OnEpisodeBegin)."""

    def sensors(self) -> list[Any]:
        """What the agent sees: arrays, or Picture and Goal around them."""
        raise NotImplementedError

    def forbidden(self) -> list[bool] | None:
        """Choices that may not be taken, branch after branch."""
        return None

    def act(self, continuous: np.ndarray, discrete: np.ndarray, fresh: bool) -> None:
        """Act (OnActionReceived); fresh when the action answers a question of this very step."""

    # What Unity does.

    def send(self) -> None:
        """Ask for a decision: a record of everything since the last one (SendInfoToBrain)."""
        self.done = False
        self.records.append((False, False, self.reward, self.group_reward, self.sensors(), self.forbidden()))
        self.reward = self.group_reward = 0.0

    def end(self, interrupted: bool = False, restart: bool = True) -> None:
        """End the episode (EndEpisode, EpisodeInterrupted): the last record, and a reset in place."""
        if not self.done:
            self.records.append((True, interrupted, self.reward, self.group_reward, self.sensors(), None))
            self.done = True
            self.reward = self.group_reward = 0.0
            self.asks = self.acts = False
        if restart:
            self.restart()

    def restart(self) -> None:
        """Begin the next episode (_AgentReset); nothing of the old one's rewards goes."""
        self.actions = self.no_actions()
        self.step_count = 0
        self.begin()

    def disable(self) -> None:
        """Vanish from the scene: an episode under way ends."""
        self.end(restart=False)
        self.alive = False


class Academy:
    """
    Steps the agents of a scene and exchanges their records for actions.

    :param scene: the scene
    :param exchange: sends records, and gives actions by agent id; None after a reset was asked for
    """

    def __init__(self, scene: Any, exchange: Any) -> None:
        self.scene, self._exchange = scene, exchange
        self._step_count = 0
        # Records of agents that have vanished since the last exchange.
        self._parting: list[Agent] = []

    def reset(self) -> None:
        """Reset all agents, as the command from Python does: no episode ends for it."""
        self._step_count = 0
        self.scene.on_reset()
        for agent in self.scene.agents:
            agent.restart()

    def step(self) -> None:
        """One academy step (EnvironmentStep)."""
        agents = self.scene.agents
        for agent in agents:
            if self._step_count % agent.period == agent.offset:
                agent.asks = True
            agent.acts = True  # "take actions between decisions"
        self._step_count += 1
        for agent in agents:
            agent.step_count += 1
        asked = [agent for agent in agents if agent.asks]
        for agent in asked:
            agent.send()
            agent.asks = False
        speaking = [agent for agent in [*self._parting, *agents] if agent.records]
        was_reset = False
        if speaking:
            answers = self._exchange(speaking)
            for agent in speaking:
                agent.records = []
            self._parting = []
            if answers is None:
                self.reset()
                was_reset = True
            else:
                for agent in asked:
                    agent.actions = answers[agent.id]
        for agent in agents:
            if not (agent.acts and agent.alive):
                continue
            agent.acts = False
            # After a reset whoever had asked still acts, with the zeros that were put there.
            agent.act(*agent.actions, fresh=agent in asked)
            if agent.alive and agent.max_step and agent.step_count >= agent.max_step and not was_reset:
                agent.end(interrupted=True)
        self.scene.update()
        gone = [agent for agent in agents if not agent.alive]
        self._parting += [agent for agent in gone if agent.records]
        self.scene.agents = [agent for agent in self.scene.agents if agent.alive]
