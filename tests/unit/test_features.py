"""Encoders of images of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import slow_but
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.features import VisualExtractor, smallest_image


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


@pytest.mark.parametrize("encoder, smallest", [("nature_cnn", 36), ("simple", 20), ("match3", 5), ("minatar", 3)])
def test_the_smallest_image_of_an_encoder_is_the_smallest_that_works(encoder: str, smallest: int) -> None:
    assert smallest_image(encoder) == smallest
    features = VisualExtractor(image(1, smallest, smallest + 2), encoder, cnn_output_dim=7)
    assert features(th.zeros(2, 1, smallest, smallest + 2)).shape == (2, 7)
    with pytest.raises(InvalidArgument, match=f"of {smallest - 1} x 90 pixels is too small for encoder='{encoder}'"):
        VisualExtractor(image(1, smallest - 1, 90), encoder)


def test_the_encoder_that_fits_is_chosen_for_each_image() -> None:
    space = spaces.Dict(
        {"far": image(1, 84, 84), "near": image(3, 20, 20), "tiny": image(4, 5, 6), "body": spaces.Box(-1, 1, (3,))}
    )
    features = VisualExtractor(space, cnn_output_dim=8)
    assert features.features_dim == 3 * 8 + 3
    layers = {
        key: [m for m in part.modules() if isinstance(m, th.nn.Conv2d)] for key, part in features.extractors.items()
    }
    assert {key: len(found) for key, found in layers.items()} == {"far": 3, "near": 2, "tiny": 2, "body": 0}
    assert layers["tiny"][1].out_channels == 144
    batch = {key: th.rand(2, *part.shape) for key, part in space.spaces.items()}
    assert th.equal(features(batch)[:, list(space.spaces).index("body") * 8 :][:, :3], batch["body"])


def test_the_convolutions_of_nature_cnn_are_sb3s() -> None:
    ours, theirs = VisualExtractor(image(4, 84, 84), "nature_cnn"), NatureCNN(image(4, 84, 84))
    shapes = [[m.weight.shape for m in net.modules() if isinstance(m, th.nn.Conv2d)] for net in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "space, encoder, words",
    [
        (image(3, 20, 20), "resnet", "encoder='resnet'; there are auto, nature_cnn, simple, match3, minatar"),
        (image(3, 20, 20), "nature_cnn", "use simple"),
        (image(1, 2, 90), "auto", "the smallest encoder needs 3"),
        (spaces.Box(-1, 1, (3,)), "auto", "there is none"),
    ],
)
def test_what_does_not_fit_is_told(space: spaces.Space, encoder: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        VisualExtractor(space, encoder)


@pytest.mark.parametrize("compiled", slow_but([False], [False, True]))
def test_a_policy_learns_with_it(compiled: bool) -> None:
    env = VecTransposeImage(DummyVecEnv([lambda: FakeImageEnv(screen_height=20, screen_width=20, n_channels=3)]))
    kwargs = {"features_extractor_class": VisualExtractor, "features_extractor_kwargs": {"cnn_output_dim": 16}}
    model = PPOPlus(
        "CnnPolicy", env, policy_kwargs=kwargs, n_steps=32, batch_size=16, n_epochs=1, compile_update=compiled
    )
    before = model.policy.features_extractor.extractors["image"][1].weight.clone()
    model.learn(32)
    assert not th.equal(before, model.policy.features_extractor.extractors["image"][1].weight)
