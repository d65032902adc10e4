"""What a behavior of a game observes and does, and the spaces of Gymnasium that say so."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.envs.unity.errors import UnityError

# Dimension properties of Unity's sensors.
_PLAIN, _TRANSLATIONAL = 1, 2
_GOAL = 1
# From this package version on, images are channel-first; asked only where a sensor says nothing about its dimensions.
_CHANNEL_FIRST_SINCE = 3


class Sensor(NamedTuple):
    """
    One sensor of an agent.

    :param name: name in the game
    :param shape: shape as Python sees it: [size], [entities, size] or [channels, height, width]
    :param channels_last: whether the game sends [height, width, channels]
    :param compressed: whether it sends PNG files
    :param goal: whether it is a goal signal
    """

    name: str
    shape: tuple[int, ...]
    channels_last: bool = False
    compressed: bool = False
    goal: bool = False

    @property
    def is_image(self) -> bool:
        """:return: whether it is an image"""
        return len(self.shape) == 3

    @property
    def sent_shape(self) -> tuple[int, ...]:
        """:return: shape as the game sends it"""
        return (*self.shape[1:], self.shape[0]) if self.channels_last else self.shape


class Behavior(NamedTuple):
    """
    A behavior: what all agents have in common that share one policy.

    :param name: name in the game, such as ``Striker?team=0``
    :param sensors: sensors in the order of the game
    :param n_continuous: number of continuous actions, in [-1, 1] by convention
    :param branches: number of choices of each discrete action
    """

    name: str
    sensors: tuple[Sensor, ...]
    n_continuous: int
    branches: tuple[int, ...]

    def observation_space(self, float_images: bool = False) -> spaces.Space:
        """
        Give the observation space: that of the sensor where there is one, else a Dict of them in the game's order.

        :param float_images: images as float32 in [0, 1] instead of whole numbers up to 255
        :return: Box or Dict
        """
        parts = [_sensor_space(sensor, float_images) for sensor in self.sensors]
        if len(parts) == 1:
            return parts[0]
        return spaces.Dict(dict(zip(self.observation_names(), parts, strict=True)))

    def observation_names(self) -> list[str]:
        """:return: keys of the Dict space; numbers have equal widths, since Gymnasium sorts keys"""
        width = len(str(len(self.sensors) - 1))
        return [f"obs_{index:0{width}d}" for index in range(len(self.sensors))]

    def action_space(self) -> spaces.Space:
        """:return: Box, Discrete, MultiDiscrete, or a HybridSpace of continuous actions and branches"""
        continuous = spaces.Box(-1.0, 1.0, (self.n_continuous,), np.float32)
        if self.n_continuous and self.branches:
            return HybridSpace(continuous, self.branches)
        if self.n_continuous:
            return continuous
        if not self.branches:
            raise UnityError(f"behavior {self.name!r} has no actions; give it some in its Behavior Parameters")
        return (
            spaces.Discrete(self.branches[0]) if len(self.branches) == 1 else spaces.MultiDiscrete(list(self.branches))
        )


def _sensor_space(sensor: Sensor, float_images: bool) -> spaces.Box:
    if not sensor.is_image:
        return spaces.Box(-np.inf, np.inf, sensor.shape, np.float32)
    if float_images:
        return spaces.Box(0.0, 1.0, sensor.shape, np.float32)
    return spaces.Box(0, 255, sensor.shape, np.uint8)


def read_behavior(parameters: Any, agent: Any, package_version: str) -> Behavior:
    """
    Read a behavior off what the game says of it, and off the first agent that it shows.

    :param parameters: ``BrainParametersProto``
    :param agent: ``AgentInfoProto``
    :param package_version: version of the ML-Agents package in the game
    :return: the behavior
    """
    sensors = tuple(_read_sensor(obs, index, package_version) for index, obs in enumerate(agent.observations))
    if not sensors:
        raise UnityError(f"behavior {parameters.brain_name!r} observes nothing; add a sensor to its agents")
    action = parameters.action_spec
    n_continuous, branches = action.num_continuous_actions, tuple(action.discrete_branch_sizes)
    if not n_continuous and not branches:
        # Before communication version 1.3 there was one kind only.
        sizes = tuple(parameters.vector_action_size_deprecated)
        if parameters.vector_action_space_type_deprecated == 1:
            n_continuous = sizes[0] if sizes else 0
        else:
            branches = sizes
    return Behavior(parameters.brain_name, sensors, int(n_continuous), tuple(int(size) for size in branches))


def _read_sensor(obs: Any, index: int, package_version: str) -> Sensor:
    shape = tuple(int(size) for size in obs.shape)
    name, goal = obs.name or f"sensor {index}", obs.observation_type == _GOAL
    if len(shape) != 3:
        if len(shape) not in (1, 2):
            raise UnityError(f"sensor {name!r} has shape {shape}; one, two or three dimensions are understood")
        return Sensor(name, shape, goal=goal)
    last = _has_channels_last(tuple(obs.dimension_properties), package_version)
    if last:
        shape = (shape[2], *shape[:2])
    return Sensor(name, shape, channels_last=last, compressed=obs.compression_type != 0, goal=goal)


def _has_channels_last(properties: tuple[int, ...], package_version: str) -> bool:
    """Package 2 sends height, width, channels; 3 and 4 the channels first. Nothing but the properties tells them."""
    if properties == (_TRANSLATIONAL, _TRANSLATIONAL, _PLAIN):
        return True
    if properties == (_PLAIN, _TRANSLATIONAL, _TRANSLATIONAL):
        return False
    major = package_version.partition(".")[0]
    return major.isdigit() and int(major) < _CHANNEL_FIRST_SINCE
