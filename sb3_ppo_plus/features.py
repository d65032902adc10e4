"""Features of images of any size, alone or beside other observations: the visual encoders of ML-Agents and MinAtar."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_ppo_plus.errors import InvalidArgument

# Encoder: (channels, kernel, stride) of each convolution, from the largest images to the smallest.
ENCODERS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "nature_cnn": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    "simple": ((16, 8, 4), (32, 4, 2)),
    "match3": ((35, 3, 1), (144, 3, 1)),
    "minatar": ((16, 3, 1),),
}


class VisualExtractor(BaseFeaturesExtractor):
    """
    Convolutions for each image, and what is no image as it is, side by side.

    Unlike SB3's ``NatureCNN`` and ``CombinedExtractor`` it takes images down to 3 x 3, and the encoder may be chosen:
    ``policy_kwargs={"features_extractor_class": VisualExtractor, "features_extractor_kwargs": {"encoder": "simple"}}``.

    :param observation_space: an image (channels first), or a Dict with images in it
    :param encoder: ``nature_cnn`` (36 pixels and more), ``simple`` (20 and more), ``match3`` (5 and more), ``minatar``
        (3 and more; the smallest and fastest, from arXiv 1903.03176), or ``auto`` for the first that fits each image
    :param cnn_output_dim: features of each image, typically 64 to 512; more sees finer differences and is slower
    :param normalized_image: whether images are float already (SB3 sets it for ``normalize_images=False``)
    :raises InvalidArgument: for an unknown encoder, or an image that is too small for it
    """

    def __init__(
        self,
        observation_space: gym.Space,
        encoder: str = "auto",
        cnn_output_dim: int = 256,
        normalized_image: bool = False,
    ) -> None:
        if encoder not in ("auto", *ENCODERS):
            raise InvalidArgument(f"encoder={encoder!r}; there are auto, {', '.join(ENCODERS)}")
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        # An image by its shape, whatever its numbers are: this class is asked for by name.
        images = {key: part for key, part in parts.items() if len(part.shape or ()) == 3}
        if not images:
            raise InvalidArgument(f"VisualExtractor is for images, and there is none in {observation_space}")
        sizes = {key: cnn_output_dim if key in images else spaces.flatdim(part) for key, part in parts.items()}
        super().__init__(observation_space, sum(sizes.values()))
        self.extractors = nn.ModuleDict()
        for key, part in parts.items():
            if key in images:
                self.extractors[_module_name(key)] = _make_encoder(key, part, encoder, cnn_output_dim)
            else:
                self.extractors[_module_name(key)] = nn.Flatten()
        self.keys = list(parts)
        self.single = not isinstance(observation_space, spaces.Dict)

    def forward(self, observations: Any) -> th.Tensor:
        """
        :param observations: an image [B, C, H, W], or a mapping of observations
        :return: features [B, F]
        """
        parts = {"": observations} if self.single else observations
        return th.cat([self.extractors[_module_name(key)](parts[key]) for key in self.keys], dim=1)


def _module_name(key: str) -> str:
    return key.replace(".", "_") or "image"


def smallest_image(encoder: str) -> int:
    """
    :param encoder: name of an encoder
    :return: pixels that an image needs in height and width
    """
    size = 1
    for _, kernel, stride in reversed(ENCODERS[encoder]):
        size = (size - 1) * stride + kernel
    return size


def _make_encoder(key: str, space: Any, encoder: str, n_features: int) -> nn.Module:
    channels, height, width = space.shape
    if is_image_space(space) and channels > min(height, width):
        raise InvalidArgument(f"image {key!r} has shape {space.shape}; channels come first (VecTransposeImage)")
    fitting = [name for name in ENCODERS if min(height, width) >= smallest_image(name)]
    if encoder == "auto" and fitting:
        encoder = fitting[0]
    if encoder not in fitting:
        fits = f"use {fitting[0]}" if fitting else f"the smallest encoder needs {smallest_image('minatar')}"
        raise InvalidArgument(
            f"image {key!r} of {height} x {width} pixels is too small for encoder={encoder!r}; {fits}"
        )
    layers: list[nn.Module] = []
    before = channels
    for after, kernel, stride in ENCODERS[encoder]:
        layers += [nn.Conv2d(before, after, kernel, stride), nn.LeakyReLU()]
        before = after
    convolutions = nn.Sequential(*layers, nn.Flatten())
    with th.no_grad():
        n_flat = convolutions(th.zeros(1, *space.shape)).shape[1]
    return nn.Sequential(convolutions, nn.Linear(n_flat, n_features), nn.LeakyReLU())
