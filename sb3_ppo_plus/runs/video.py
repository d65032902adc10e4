"""A short video of a trained model, as GIF or MP4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sb3_ppo_plus.atomic import atomic_path
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.masking import prediction_masks
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.evaluate import Agent
from sb3_ppo_plus.runs.views import TRACKING_CAMERA, look_at

SUFFIXES = (".gif", ".mp4")


@dataclass(frozen=True)
class VideoFormat:
    """
    Size and length of a video.

    :param width: pixels; larger is sharper and a larger file
    :param height: pixels
    :param seconds: length in the environment's own time; longer is a larger file
    :param max_fps: pictures per second at most; more is smoother and a larger file
    :param colors: colors of a GIF, 2 to 256; fewer is a smaller file
    """

    width: int = 320
    height: int = 240
    seconds: float = 7.0
    max_fps: int = 25
    colors: int = 128


def check_video_path(path: Path) -> None:
    """
    Check, before anything long is started, that a video can be written in this format.

    :param path: file to write
    :raises InvalidArgument: for an unknown suffix, or when MP4 needs a package that is not there
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"video {str(path)!r} ends in {path.suffix!r}; give a name ending in .gif or .mp4")
    if path.suffix.lower() == ".mp4":
        try:
            import_module("imageio_ffmpeg")
        except ImportError as missing:
            raise InvalidArgument(
                "an .mp4 video needs `pip install imageio-ffmpeg`; or give a name ending in .gif"
            ) from missing


def record_video(
    agent: Agent, path: Path, seed: int = 0, deterministic: bool = True, form: VideoFormat | None = None
) -> Path:
    """
    Record a model at work; a new episode starts when one ends early.

    MuJoCo's environments are seen by their tracking camera. Which renderer MuJoCo uses is decided when it is first
    imported (MUJOCO_GL), so the caller chooses it before.

    :param agent: model with its environment
    :param path: .gif or .mp4 to write
    :param seed: seed of the first episode
    :param deterministic: take the mode of the policy instead of sampling
    :param form: size and length
    :return: the path
    """
    check_video_path(path)
    form = form or VideoFormat()
    env = agent.make_env(1, seed, render_kwargs(agent.config, form))
    try:
        rate = float(env.get_attr("metadata")[0].get("render_fps") or 30)
        every = max(1, round(rate / form.max_fps))
        frames = []
        masks = prediction_masks(agent.model, env)
        observation = env.reset()
        for step in range(int(form.seconds * rate)):
            if step % every == 0:
                frames.append(_fitted(env.get_images()[0], form))
            action, _ = agent.model.predict(
                observation,  # type: ignore[arg-type]
                deterministic=deterministic,
                **masks(),
            )
            observation = env.step(action)[0]
    finally:
        env.close()
    with atomic_path(path) as temporary:
        write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
        write(temporary, frames, rate / every, form)
    return path


def render_kwargs(config: RunConfig, form: VideoFormat) -> dict[str, Any]:
    """
    Find out what to ask an environment for, so that it draws small pictures and keeps a MuJoCo robot in view.

    :param config: environment and its arguments, whose choice of size and camera wins
    :param form: size of the video
    :return: arguments to add to those of the environment
    """
    views = look_at(config)
    kwargs: dict[str, Any] = {}
    if views.model is not None:
        kwargs = {"width": form.width, "height": form.height}
        if views.tracking_camera(config.env_kwargs) is not None:
            kwargs["camera_name"] = TRACKING_CAMERA
    given = {name: config.env_kwargs[name] for name in kwargs if name in config.env_kwargs}
    return {**kwargs, **given, "render_mode": "rgb_array"}


def _fitted(frame: np.ndarray | None, form: VideoFormat) -> Image.Image:
    """A frame no larger than asked for, its proportions kept."""
    if frame is None:
        raise InvalidArgument(
            "the environment draws no pictures (render_mode rgb_array gave nothing); leave out the video"
        )
    picture = Image.fromarray(np.asarray(frame, dtype=np.uint8)[..., :3])
    picture.thumbnail((form.width, form.height))
    return picture


def _write_gif(path: Path, frames: list[Image.Image], fps: float, form: VideoFormat) -> None:
    # One palette for all, and no dithering: what does not move stays equal from frame to frame and costs nothing.
    palette = _samples(frames).quantize(form.colors, dither=Image.Dither.NONE)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    # GIF counts in hundredths of a second.
    duration = max(2, round(100 / fps)) * 10
    indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=duration, loop=0, optimize=True)


def _samples(frames: list[Image.Image]) -> Image.Image:
    """Some frames side by side, for a palette that fits all."""
    chosen = frames[:: max(1, len(frames) // 8)]
    strip = Image.new("RGB", (sum(frame.width for frame in chosen), chosen[0].height))
    left = 0
    for frame in chosen:
        strip.paste(frame, (left, 0))
        left += frame.width
    return strip


def _write_mp4(path: Path, frames: list[Image.Image], fps: float, form: VideoFormat) -> None:
    writer = import_module("imageio_ffmpeg").write_frames(str(path), frames[0].size, fps=fps, macro_block_size=2)
    writer.send(None)
    for data in _raw(frames):
        writer.send(data)
    writer.close()


def _raw(frames: list[Image.Image]) -> Iterator[bytes]:
    for frame in frames:
        yield frame.tobytes()
