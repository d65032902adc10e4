"""From the game's messages to arrays: which agents ask for a decision, which have ended, and what they saw."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sb3_ppo_plus.envs.unity.errors import UnityError
from sb3_ppo_plus.envs.unity.specs import Behavior, Sensor

_PNG_START = b"\x89PNG\r\n\x1a\n"


class Records(NamedTuple):
    """
    What some agents report, in the game's order; n of them.

    :param ids: agents [n]
    :param rewards: reward since each agent's last record [n]
    :param group_rewards: the same of its group [n]
    :param group_ids: group, 0 for none [n]
    :param interrupted: for those that have ended, whether they were cut off [n]
    :param observations: one array a sensor, each [n, ...]
    :param masks: True where an action may be taken, branch after branch; None without branches [n, sum(branches)]
    """

    ids: np.ndarray
    rewards: np.ndarray
    group_rewards: np.ndarray
    group_ids: np.ndarray
    interrupted: np.ndarray
    observations: list[np.ndarray]
    masks: np.ndarray | None

    def __len__(self) -> int:  # type: ignore[override]
        return int(self.ids.shape[0])


class Report(NamedTuple):
    """
    What one exchange says of one behavior.

    :param decisions: agents that ask for an action
    :param ends: agents whose episode has ended
    """

    decisions: Records
    ends: Records


def read_report(infos: Sequence[Any], behavior: Behavior, float_images: bool) -> Report:
    """
    Read what the agents of a behavior report.

    :param infos: their ``AgentInfoProto``
    :param behavior: the behavior
    :param float_images: images as float32 in [0, 1] instead of uint8
    :return: arrays
    :raises UnityError: for an observation of another shape, or one that is not finite
    """
    deciding = [info for info in infos if not info.done]
    ended = [info for info in infos if info.done]
    return Report(_read(deciding, behavior, float_images), _read(ended, behavior, float_images))


def _read(infos: list[Any], behavior: Behavior, float_images: bool) -> Records:
    n = len(infos)
    observations = [
        read_observations([info.observations[index] for info in infos], sensor, float_images)
        for index, sensor in enumerate(behavior.sensors)
    ]
    for sensor, values in zip(behavior.sensors, observations, strict=True):
        if values.dtype == np.float32 and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).reshape(n, -1).all(axis=1))[0])
            raise UnityError(
                f"agent {infos[row].id} of behavior {behavior.name!r} observes a number that is not finite in sensor "
                f"{sensor.name!r}; look for a division by zero or a body that flew away in the game"
            )
    rewards = np.array([info.reward for info in infos], np.float32)
    group_rewards = np.array([info.group_reward for info in infos], np.float32)
    if not (np.isfinite(rewards).all() and np.isfinite(group_rewards).all()):
        raise UnityError(f"behavior {behavior.name!r} has a reward that is not finite")
    return Records(
        np.array([info.id for info in infos], np.int64),
        rewards,
        group_rewards,
        np.array([info.group_id for info in infos], np.int64),
        np.array([info.max_step_reached for info in infos], bool),
        observations,
        _read_masks(infos, behavior),
    )


def _read_masks(infos: list[Any], behavior: Behavior) -> np.ndarray | None:
    """The game says what is forbidden, or nothing; SB3's word is what is allowed."""
    width = sum(behavior.branches)
    if not width:
        return None
    masks = np.ones((len(infos), width), bool)
    for row, info in enumerate(infos):
        if len(info.action_mask):
            masks[row] = np.logical_not(info.action_mask)
    return masks


def read_observations(protos: Sequence[Any], sensor: Sensor, float_images: bool) -> np.ndarray:
    """
    Read what one sensor of several agents has seen.

    :param protos: their ``ObservationProto``
    :param sensor: the sensor
    :param float_images: images as float32 in [0, 1] instead of uint8
    :return: observations, images channel-first [n, ...]
    """
    for proto in protos:
        if tuple(proto.shape) != sensor.sent_shape:
            raise UnityError(
                f"sensor {sensor.name!r} sends shape {tuple(proto.shape)} and began with {sensor.sent_shape}; the "
                "agents of a behavior need equal sensors"
            )
    if not sensor.is_image:
        return _floats(protos, sensor)
    images = np.empty((len(protos), *sensor.shape), np.float32 if float_images else np.uint8)
    for image, proto in zip(images, protos, strict=True):
        image[...] = _read_image(proto, sensor, float_images)
    return images


def _floats(protos: Sequence[Any], sensor: Sensor) -> np.ndarray:
    """
    The numbers of some observations as the game sends them [n, ...].

    A packed field is written with its numbers at the end, four bytes each; of 100 agents that is five times as fast to
    read as their numbers one by one.
    """
    size = math.prod(sensor.sent_shape)
    counts = {len(proto.float_data.data) for proto in protos}
    if counts - {size}:
        raise UnityError(f"sensor {sensor.name!r} of shape {sensor.sent_shape} sends {sorted(counts)} numbers")
    data = b"".join([proto.float_data.SerializeToString()[-4 * size :] for proto in protos])
    # a copy: what is read from bytes cannot be written to
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(len(protos), *sensor.sent_shape)


def _read_image(proto: Any, sensor: Sensor, float_images: bool) -> np.ndarray:
    if proto.compression_type == 0:
        (values,) = _floats([proto], sensor)
        if sensor.channels_last:
            values = values.transpose(2, 0, 1)
        return values if float_images else np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    channels = _read_channels(proto.compressed_data, list(proto.compressed_channel_mapping), sensor)
    if float_images:
        return channels.astype(np.float32) / np.float32(255.0)
    return channels if channels.dtype == np.uint8 else np.rint(channels).astype(np.uint8)


def _read_channels(data: bytes, mapping: list[int], sensor: Sensor) -> np.ndarray:
    """
    Decode PNG files that stand one behind the other, three channels each.

    The mapping says which channel each of theirs belongs to, -1 for none; several of one are averaged. Games that send
    none mean the first channels, or a mean of all for one grey channel.
    """
    pictures = []
    start = 0
    while start >= 0:
        end = data.find(_PNG_START, start + len(_PNG_START))
        with Image.open(io.BytesIO(data[start : end if end > 0 else len(data)])) as picture:
            pictures.append(np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1))
        start = end
    planes = np.concatenate(pictures)
    wanted = sensor.shape[0]
    if not mapping:
        mapping = [0, 0, 0] if wanted == 1 and len(planes) == 3 else list(range(len(planes)))
    if len(mapping) != len(planes) or not set(range(wanted)) <= set(mapping):
        raise UnityError(
            f"sensor {sensor.name!r} sends {len(planes)} channels with the mapping {mapping} and should give {wanted}"
        )
    sources = [[plane for plane, target in zip(planes, mapping, strict=True) if target == c] for c in range(wanted)]
    if all(len(source) == 1 for source in sources):
        channels = np.stack([source[0] for source in sources])
    else:
        channels = np.stack([np.mean(source, axis=0) for source in sources])
    if channels.shape != sensor.shape:
        raise UnityError(f"sensor {sensor.name!r} sends images of shape {channels.shape}, not {sensor.shape}")
    return channels
