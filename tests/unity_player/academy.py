"""The order of events of a Unity academy and its agents; see README.md."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np


class Record(NamedTuple):
    """
    What an agent tells (AgentInfo): it asks for a decision, or its episode has ended.

    Ids are those of the moment: an agent that vanished and came back has another one since.
    """

    agent: Agent
    id: int
    group_id: int
    done: bool
    interrupted: bool
    reward: float
    group_reward: float
    sensors: dict[str, Any]
    forbidden: list[bool] | None


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
    # Of all agents, in the order of events, until the next exchange; there is one academy in a game.
    outbox: ClassVar[list[Record]] = []
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
        self.begin()

    def no_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """What an agent does that was never answered."""
        return np.zeros(self.n_continuous, np.float32), np.zeros(len(self.branches), int)

    # What a scene overrides.

    def begin(self) -> None:
        """Begin an episode (OnEpisodeBegin)."""

    def sensors(self) -> dict[str, Any]:
        """What the agent sees, by the sensor's name: arrays, or Picture and Goal around them."""
        raise NotImplementedError

    def forbidden(self) -> list[bool] | None:
        """Choices that may not be taken, branch after branch."""
        return None

    def act(self, continuous: np.ndarray, discrete: np.ndarray, fresh: bool) -> None:
        """Act (OnActionReceived); fresh when the action answers a question of this very step."""

    # What Unity does.

    def send(self) -> None:
        """Ask for a decision: a record of everything since the last one (SendInfoToBrain)."""
        self.asks = self.done = False
        self._tell(False, self.forbidden())

    def end(self, interrupted: bool = False, restart: bool = True) -> None:
        """End the episode (EndEpisode, EpisodeInterrupted): the last record, and a reset in place."""
        if not self.done:
            self.done = True
            self._tell(interrupted, None)
            self.asks = self.acts = False
            self.actions = self.no_actions()
        if restart:
            self.restart()

    def _tell(self, interrupted: bool, forbidden: list[bool] | None) -> None:
        about = (self.id, self.group_id, self.done, interrupted, self.reward, self.group_reward)
        # Sensors go in the order of their names (SortSensors).
        Agent.outbox.append(Record(self, *about, dict(sorted(self.sensors().items())), forbidden))
        self.reward = self.group_reward = 0.0

    def restart(self) -> None:
        """Begin the next episode (_AgentReset); nothing of the old one's rewards goes."""
        self.step_count = 0
        self.begin()

    def disable(self) -> None:
        """Vanish from the scene: an episode under way ends (OnDisable)."""
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

    def reset(self) -> None:
        """Reset all agents, as the command from Python does: no episode ends for it (ForcedFullReset)."""
        self._step_count = 0
        self.scene.on_reset()
        for agent in self.scene.agents:
            agent.restart()

    def step(self) -> None:
        """One academy step (EnvironmentStep)."""
        agents = [agent for agent in self.scene.agents if agent.alive]
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
        self._decide(agents, asked)
        for agent in agents:
            if agent.acts and agent.alive:
                agent.acts = False
                agent.act(*agent.actions, fresh=agent in asked)
            if agent.alive and agent.max_step and agent.step_count >= agent.max_step:
                agent.end(interrupted=True)
        self.scene.update()
        self.scene.agents = [agent for agent in self.scene.agents if agent.alive]

    def _decide(self, agents: list[Agent], asked: list[Agent]) -> None:
        """Exchange if somebody has something to tell (DecideBatch); agents do that, so without any nothing is sent."""
        if not Agent.outbox or not agents:
            return
        answers = self._exchange(list(Agent.outbox))
        Agent.outbox.clear()
        if answers is None:
            self.reset()
        for agent in asked:
            # Whoever asked acts even when Python answers with a reset: zeros. Others go on with what they were told.
            agent.actions = agent.no_actions() if answers is None else answers[agent.id]
