"""What happens in the game: scenes whose right returns are known."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, NamedTuple

import numpy as np
from academy import Agent

CARDINAL = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


class Picture(NamedTuple):
    """An image observation, height x width x 3, in whole 255ths."""

    pixels: np.ndarray


class Goal(NamedTuple):
    """A vector observation that is a goal signal."""

    values: np.ndarray


class Scene:
    """
    Some agents, and what goes on around them.

    :param options: command line options
    :param rng: all that is random
    :param game: environment parameters, statistics and the log
    """

    def __init__(self, options: Namespace, rng: np.random.Generator, game: Any) -> None:
        self.options, self.rng, self.game = options, rng, game
        self.agents: list[Agent] = []

    def on_reset(self) -> None:
        """Called before the agents are reset from Python."""

    def update(self) -> None:
        """Called at the end of each academy step."""

    def period(self, number: int) -> int:
        """Decision period of an agent."""
        periods = self.options.periods
        return periods[number % len(periods)]


# ------------------------------------------------ echo


class EchoAgent(Agent):
    """
    Wants to hear what it says. Its observation is

        [number, episode, decision within the episode, wanted continuous actions ..., wanted choices ...]

    and the reward of an action 1 - mean |continuous - wanted| / 2 - share of wrong choices / 2, paid once for each
    decision. Episode e of agent k lasts 5 + k % 7 decisions; every other one is interrupted instead of ended. The last
    observation of an episode says the number of its decisions, and wants nothing (zeros).
    """

    def __init__(self, scene: Scene, number: int, behavior: str = "Echo?team=0", **options: Any) -> None:
        self.scene, self.number = scene, number
        self.n_continuous, self.branches = options.pop("n_continuous", 2), options.pop("branches", (3, 2))
        self.episode = -1
        self.length = 5 + number % 7
        period = options.pop("period", scene.period(number))
        super().__init__(behavior, period, number % period, **options)

    def begin(self) -> None:
        self.episode += 1
        self.decision = 0
        self.want()

    def want(self) -> None:
        """Draw what is wanted next, in quarters, which floats hold exactly."""
        self.wanted = self.scene.rng.integers(-4, 5, self.n_continuous).astype(np.float32) / 4.0
        self.choices = np.array([self.scene.rng.integers(size) for size in self.branches], int)

    def want_nothing(self) -> None:
        """As in the last observation of an episode."""
        self.wanted, self.choices = np.zeros(self.n_continuous), np.zeros(len(self.branches), int)

    def sensors(self) -> dict[str, Any]:
        seen = [self.number, self.episode, self.decision, *self.wanted, *self.choices]
        return {"echo": np.array(seen, np.float32)}

    def act(self, continuous: np.ndarray, discrete: np.ndarray, fresh: bool) -> None:
        if not fresh:
            return
        error = 0.0
        if self.n_continuous:
            error += float(np.abs(continuous - self.wanted).mean()) / 2.0
        if self.branches:
            error += float((discrete != self.choices).mean()) / 2.0
        self.reward += 1.0 - error
        self.decision += 1
        if self.decision < self.length:
            self.want()
            return
        self.want_nothing()
        self.finish()

    def finish(self) -> None:
        """End the episode."""
        self.end(interrupted=self.episode % 2 == 1)


class Echo(Scene):
    """Agents that echo, each with a rhythm of its own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        kinds = {"hybrid": (2, (3, 2)), "continuous": (2, ()), "branch": (0, (4,)), "branches": (0, (3, 2))}
        n_continuous, branches = kinds[self.options.actions]
        self.agents = [
            EchoAgent(self, number, n_continuous=n_continuous, branches=branches)
            for number in range(self.options.agents)
        ]


class Two(Scene):
    """Two behaviors of different shapes and rhythms, the goalies slower."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        n = self.options.agents
        self.agents = [
            EchoAgent(self, number, "Striker?team=0", n_continuous=3, branches=(), period=1) for number in range(n)
        ]
        self.agents += [
            EchoAgent(self, n + number, "Goalie?team=1", n_continuous=0, branches=(4,), period=3) for number in range(n)
        ]


class MortalAgent(EchoAgent):
    """Is destroyed where its only episode ends, whose number is the agent's."""

    def begin(self) -> None:
        self.episode = self.number - 1
        super().begin()

    def finish(self) -> None:
        self.end(interrupted=self.episode % 2 == 1, restart=False)
        self.disable()


class Respawn(Scene):
    """Agents are destroyed at their end, and others come at random times; sometimes nobody is there."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._number = 0
        self.update()

    def update(self) -> None:
        present = sum(agent.alive for agent in self.agents)
        if present < self.options.agents and (self.rng.random() < 0.3 or not self._number):
            self.agents.append(MortalAgent(self, self._number, n_continuous=1, branches=(2,)))
            self._number += 1


class Member(EchoAgent):
    """A member of a group, whose episodes have six decisions; odd ones vanish after three."""

    def begin(self) -> None:
        self.waits = False
        super().begin()

    def finish(self) -> None:
        self.waits = True

    def act(self, continuous: np.ndarray, discrete: np.ndarray, fresh: bool) -> None:
        if self.waits:
            return
        super().act(continuous, discrete, fresh)
        if fresh and self.number % 2 and self.decision == 3:
            self.want_nothing()
            self.disable()


class Groups(Scene):
    """
    Pairs of agents, each a group. When the first of a pair has made its six decisions, the group's episode is over:
    whoever is still there gets a group reward of 2 and ends (every other time it is an interruption). The second, which
    vanished after three decisions without a group reward, then comes back with a new id.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.members: list[Member] = []
        for number in range(self.options.agents):
            member = Member(self, number, "Group?team=0", period=self.period(number // 2))
            member.group_id = 1 + number // 2
            member.length = 6
            self.members.append(member)
        self.agents = list(self.members)

    def update(self) -> None:
        for first in self.members[::2]:
            if not first.waits:
                continue
            interrupted = first.episode % 2 == 1
            for member in (other for other in self.members if other.group_id == first.group_id):
                if member.alive:
                    member.group_reward += 2.0
                    member.end(interrupted)
                    continue
                member.enable()
                if member not in self.agents:
                    self.agents.append(member)


class Observer(EchoAgent):
    """
    Has twelve sensors, ``sensor_00`` to ``sensor_11``: the first is that of the echo, the sixth an image of 6 x 5, the
    ninth a buffer of 4 entities, all others hold [index of the sensor, number of the agent, decision].

    The image is black but for one green pixel at (decision % 6, number % 5), and blue is decision / 255 everywhere. Of
    the entities, each [number, 1], there are decision % 4; the other rows are zeros.
    """

    def sensors(self) -> dict[str, Any]:
        parts: list[Any] = [np.array([index, self.number, self.decision], np.float32) for index in range(12)]
        parts[0] = super().sensors()["echo"]
        image = np.zeros((6, 5, 3))
        image[self.decision % 6, self.number % 5, 1] = 1.0
        image[..., 2] = self.decision / 255.0
        parts[5] = Picture(image)
        entities = np.zeros((4, 2), np.float32)
        entities[: self.decision % 4] = self.number, 1.0
        parts[8] = entities
        return {f"sensor_{index:02d}": part for index, part in enumerate(parts)}


class Sensors(Scene):
    """Agents with many sensors."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.agents = [
            Observer(self, number, "Sensors", n_continuous=1, branches=()) for number in range(self.options.agents)
        ]


# ------------------------------------------------ balance


class Balancer(Agent):
    """
    A ball on a plate that is tilted about two axes: +0.1 for each decision with the ball on it, -1 when it drops.

    Observation: tilt (2), ball (2), its velocity (2), the last action (2). A decision holds for five academy steps. The
    environment parameter ``gravity`` is read when an episode begins.
    """

    n_continuous = 2

    def __init__(self, scene: Scene, max_step: int) -> None:
        self.scene = scene
        super().__init__("Balance?team=0", period=5, max_step=max_step)

    def begin(self) -> None:
        self.tilt = self.scene.rng.uniform(-0.2, 0.2, 2)
        self.ball = self.scene.rng.uniform(-0.3, 0.3, 2)
        self.velocity = self.scene.rng.uniform(-0.5, 0.5, 2)
        self.last = np.zeros(2)
        self.gravity = self.scene.game.parameter("gravity", 9.81)

    def sensors(self) -> dict[str, Any]:
        return {"ball": np.concatenate([self.tilt, self.ball, self.velocity, self.last]).astype(np.float32)}

    def act(self, continuous: np.ndarray, discrete: np.ndarray, fresh: bool) -> None:
        action = np.clip(continuous, -1.0, 1.0)
        self.tilt = np.clip(self.tilt + 0.05 * action, -0.5, 0.5)
        self.velocity = self.velocity + 0.02 * (self.gravity * np.sin(self.tilt) + 2.0 * self.ball)
        self.ball = self.ball + 0.02 * self.velocity
        self.last = action
        if np.abs(self.ball).max() > 1.0:
            self.reward -= 1.0
            self.scene.game.note("Balance/drops", 1.0, 2)
            self.end()
        elif fresh:
            self.reward += 0.1


class Balance(Scene):
    """Balancing agents."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.agents = [Balancer(self, self.options.max_step) for _ in range(self.options.agents)]


# ------------------------------------------------ grid


class Walker(Agent):
    """
    Walks on 5 x 5 cells to the goal that is asked for: +1 there, -1 at the other one, -0.01 a step.

    Sensors: an image of 20 x 20 (walker red, goals green and blue), and which goal is wanted (a goal signal). Choices:
    stay, right, left, down, up; those that lead off the board are forbidden.
    """

    branches = (5,)

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        super().__init__("Grid", max_step=100)

    def begin(self) -> None:
        cells = self.scene.rng.choice(25, 3, replace=False)
        self.at, *self.goals = ([int(cell) // 5, int(cell) % 5] for cell in cells)
        self.wanted = int(self.scene.rng.integers(2))

    def sensors(self) -> dict[str, Any]:
        image = np.zeros((20, 20, 3))
        for channel, (row, column) in enumerate([self.at, *self.goals]):
            image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4, channel] = 1.0
        return {"goal": Goal(np.eye(2, dtype=np.float32)[self.wanted]), "picture": Picture(image)}

    def forbidden(self) -> list[bool] | None:
        row, column = self.at
        return [not (0 <= row + dr < 5 and 0 <= column + dc < 5) for dr, dc in CARDINAL]

    def act(self, continuous: np.ndarray, discrete: np.ndarray, fresh: bool) -> None:
        choice = int(discrete[0])
        if self.forbidden()[choice]:
            self.scene.game.note("Grid/violations", 1.0, 2)
            return
        self.at = [self.at[0] + CARDINAL[choice][0], self.at[1] + CARDINAL[choice][1]]
        self.reward -= 0.01
        if self.at in self.goals:
            self.reward += 1.0 if self.at == self.goals[self.wanted] else -1.0
            self.end()


class Grid(Scene):
    """Walkers, each on a board of its own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.agents = [Walker(self) for _ in range(self.options.agents)]


SCENES = {
    "balance": Balance,
    "echo": Echo,
    "grid": Grid,
    "group": Groups,
    "respawn": Respawn,
    "sensors": Sensors,
    "two": Two,
}
