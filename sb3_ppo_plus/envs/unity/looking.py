"""What there is in a game: its behaviors, what they observe and do, and how often they ask."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.unity.channels import Channels, Statistics, engine_settings
from sb3_ppo_plus.envs.unity.executable import find_executable
from sb3_ppo_plus.envs.unity.game import Actions, Game, Launch
from sb3_ppo_plus.envs.unity.others import Others
from sb3_ppo_plus.envs.unity.specs import Behavior
from sb3_ppo_plus.envs.unity.workers import RestartLimits, Workers


@dataclass
class SeenBehavior:
    """
    What was seen of a behavior.

    :param behavior: the behavior
    :param n_agents: most agents at once
    :param n_decisions: how often its agents asked, all together
    :param groups: groups of its agents
    :param is_masked: whether an action was ever forbidden
    """

    behavior: Behavior
    n_agents: int = 0
    n_decisions: int = 0
    groups: set[int] = field(default_factory=set)
    is_masked: bool = False

    def to_json(self) -> dict[str, Any]:
        """:return: as plain values"""
        spec = self.behavior
        return {
            "agents": self.n_agents,
            "decisions": self.n_decisions,
            "groups": len(self.groups),
            "sensors": [
                {"name": sensor.name, "shape": list(sensor.shape), "kind": _kind(sensor), "goal": sensor.goal}
                for sensor in spec.sensors
            ],
            "continuous_actions": spec.n_continuous,
            "branches": list(spec.branches),
            "masks_seen": self.is_masked,
            "observation_space": str(spec.observation_space()),
            "action_space": str(spec.action_space()),
        }


@dataclass
class SeenGame:
    """
    What was seen of a game.

    :param package_version: version of the ML-Agents package in it
    :param communication_version: version of the protocol that it speaks
    :param n_exchanges: how many messages were looked at
    :param behaviors: by name
    :param statistics: names of the numbers that it sent to be logged
    """

    package_version: str
    communication_version: str
    n_exchanges: int
    behaviors: dict[str, SeenBehavior]
    statistics: list[str]

    def to_json(self) -> dict[str, Any]:
        """:return: as plain values"""
        return {
            "package_version": self.package_version,
            "communication_version": self.communication_version,
            "exchanges": self.n_exchanges,
            "behaviors": {name: seen.to_json() for name, seen in self.behaviors.items()},
            "statistics": self.statistics,
        }

    def lines(self) -> list[str]:
        """:return: lines to print"""
        head = f"ML-Agents package {self.package_version}, communication {self.communication_version}"
        lines = [f"{head}; seen in {self.n_exchanges} exchanges:"]
        for name, seen in self.behaviors.items():
            told = seen.to_json()
            groups = f", in {told['groups']} groups" if told["groups"] else ""
            lines += ["", f"{name}", f"  agents       {told['agents']} at once{groups}"]
            lines.append(f"  decisions    {told['decisions']} in all")
            for index, sensor in enumerate(told["sensors"]):
                goal = ", a goal" if sensor["goal"] else ""
                lines.append(f"  sensor {index:<5} {sensor['name']}: {sensor['kind']} {sensor['shape']}{goal}")
            masks = ", some forbidden at times" if told["masks_seen"] else ""
            lines.append(f"  actions      {told['continuous_actions']} continuous, branches {told['branches']}{masks}")
            lines.append(f"  in Python    {told['observation_space']} -> {told['action_space']}")
        if self.statistics:
            lines += ["", f"statistics   {', '.join(self.statistics)}"]
        lines += ["", "environment parameters: a game does not tell which it knows; they are in its own code"]
        return lines


def _kind(sensor: Any) -> str:
    return "image" if sensor.is_image else "entities" if len(sensor.shape) == 2 else "vector"


def look_into(
    file_name: str | os.PathLike[str] | None,
    graphics: bool = True,
    timeout: float = 60.0,
    base_port: int | None = None,
    n_exchanges: int = 50,
) -> SeenGame:
    """
    Start a game, play it at random for a moment, and say what there is.

    :param file_name: the built game, None for the editor
    :param graphics: whether it may draw
    :param timeout: seconds to wait for its start and for each answer
    :param base_port: port, None for a free one (5004 for the editor)
    :param n_exchanges: messages to look at; more sees agents with slow rhythms
    :return: what was seen
    :raises UnityError: when the game does not start
    """
    program = None if file_name is None else find_executable(file_name)
    launch = Launch(program, graphics, (), None, timeout, "localhost", 2**30, 1, False, False)
    statistics = Statistics()
    settings = engine_settings(20.0, None)
    workers = Workers(launch, 1, base_port, 0, lambda worker: Channels(settings, statistics), RestartLimits(0))
    try:
        return _look(workers, statistics, max(1, n_exchanges))
    finally:
        workers.close()


def _look(workers: Workers, statistics: Statistics, n_exchanges: int) -> SeenGame:
    players, seen = Others("random", 0, False), dict[str, SeenBehavior]()
    alive: dict[str, set[int]] = {}
    left = n_exchanges

    def take_in(game: Game, output: Any) -> bool:
        nonlocal left
        answers: dict[str, Actions] = {}
        for name, report in game.read(output).items():
            behavior, asking = game.behaviors[name], report.decisions
            one, here = seen.setdefault(name, SeenBehavior(behavior)), alive.setdefault(name, set())
            here.difference_update(report.ends.ids.tolist())
            here.update(asking.ids.tolist())
            one.n_agents, one.n_decisions = max(one.n_agents, len(here)), one.n_decisions + len(asking)
            one.groups |= set(np.unique(asking.group_ids[asking.group_ids != 0]).tolist())
            one.is_masked |= asking.masks is not None and not asking.masks.all()
            if len(asking):
                answers[name] = players.act(behavior, asking)
        left -= 1
        if left:
            game.step(answers)
        return not left

    workers.reset()
    workers.gather("step", take_in, lambda worker: None)
    (game,) = workers.games
    return SeenGame(game.package_version, game.communication_version, n_exchanges, seen, sorted(statistics.take()))
