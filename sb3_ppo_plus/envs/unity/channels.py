"""What travels beside actions and observations: engine settings, environment parameters, statistics of the game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.unity import messages
from sb3_ppo_plus.envs.unity.parameters import Sampler
from sb3_ppo_plus.errors import InvalidArgument

# What mlagents-learn sets; a game without settings would run in real time.
ENGINE_DEFAULTS: Mapping[str, float] = {
    "width": 84,
    "height": 84,
    "quality_level": 5,
    "time_scale": 20.0,
    "target_frame_rate": -1,
    "capture_frame_rate": 60,
}
_WHOLE = ("width", "height", "quality_level", "target_frame_rate", "capture_frame_rate")


def engine_settings(time_scale: float, more: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    Complete the settings of the engine.

    :param time_scale: how many times as fast as real time the game may run, 1 to 100
    :param more: other settings by name, see ``ENGINE_DEFAULTS``
    :return: all of them
    :raises InvalidArgument: for an unknown name, or a value that the engine does not take
    """
    unknown = sorted(set(more or {}) - set(ENGINE_DEFAULTS))
    if unknown:
        raise InvalidArgument(f"engine has no setting {unknown[0]!r}; there are {', '.join(ENGINE_DEFAULTS)}")
    if more and "time_scale" in more:
        raise InvalidArgument("give time_scale as an argument of its own, not in engine")
    settings = {**ENGINE_DEFAULTS, **(more or {}), "time_scale": time_scale}
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise InvalidArgument(f"{name}={value!r} of the engine has to be a number")
        settings[name] = int(value) if name in _WHOLE else float(value)
    if not 1.0 <= settings["time_scale"] <= 100.0:
        raise InvalidArgument(f"time_scale={time_scale!r} has to be between 1 (real time) and 100")
    return settings


class Statistics:
    """Numbers that games send to be logged, gathered until they are taken; all games of an environment share one."""

    def __init__(self) -> None:
        self._numbers: dict[str, tuple[int, list[float]]] = {}

    def note(self, key: str, value: float, aggregation: int) -> None:
        """
        :param key: name
        :param value: number
        :param aggregation: 0 mean, 1 most recent, 2 sum, 3 histogram
        """
        self._numbers.setdefault(key, (aggregation, []))[1].append(value)

    def take(self) -> dict[str, float]:
        """:return: one number a name since the last call; of a histogram its mean"""
        taken = {key: _summary(aggregation, values) for key, (aggregation, values) in self._numbers.items()}
        self._numbers = {}
        return taken


def _summary(aggregation: int, values: list[float]) -> float:
    if aggregation == 1:
        return values[-1]
    return float(np.sum(values)) if aggregation == 2 else float(np.mean(values))


class Channels:
    """
    The side channels of one game.

    :param settings: of the engine
    :param statistics: where the game's numbers go
    :param more: the user's own channels, subclasses of ``mlagents_envs.side_channel.SideChannel``
    """

    def __init__(self, settings: Mapping[str, Any], statistics: Statistics, more: Sequence[Any] = ()) -> None:
        messages.install()
        from mlagents_envs.side_channel.engine_configuration_channel import EngineConfigurationChannel
        from mlagents_envs.side_channel.environment_parameters_channel import EnvironmentParametersChannel
        from mlagents_envs.side_channel.side_channel_manager import SideChannelManager
        from mlagents_envs.side_channel.stats_side_channel import StatsSideChannel

        engine = EngineConfigurationChannel()
        engine.set_configuration_parameters(**settings)
        self._parameters = EnvironmentParametersChannel()
        self._statistics, self._stats_channel = statistics, StatsSideChannel()
        self._manager = SideChannelManager([engine, self._parameters, self._stats_channel, *more])

    def set_parameter(self, key: str, value: float | Sampler, seed: int) -> None:
        """
        Announce an environment parameter; it travels with the next message.

        :param key: name in the game
        :param value: a number, or how the game draws one at each reset
        :param seed: of the game's draws
        """
        if isinstance(value, Sampler):
            value.announce(self._parameters, key, seed)
        else:
            self._parameters.set_float_parameter(key, value)

    def outgoing(self) -> bytes:
        """:return: everything that waits to be sent"""
        return bytes(self._manager.generate_side_channel_messages())

    def incoming(self, data: bytes) -> None:
        """
        :param data: what came from the game
        """
        self._manager.process_side_channel_message(data)
        for key, pairs in self._stats_channel.get_and_reset_stats().items():
            for value, aggregation in pairs:
                self._statistics.note(key, value, int(getattr(aggregation, "value", aggregation)))
