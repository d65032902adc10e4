"""Executables, spaces, pictures, parameters and settings of Unity games."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from sb3_ppo_plus.envs.unity.channels import Statistics, engine_settings
from sb3_ppo_plus.envs.unity.errors import UnityError
from sb3_ppo_plus.envs.unity.executable import find_executable, game_arguments
from sb3_ppo_plus.envs.unity.messages import message_class
from sb3_ppo_plus.envs.unity.parameters import Curriculum, Lesson, Sampler, read_parameters
from sb3_ppo_plus.envs.unity.records import read_observations
from sb3_ppo_plus.envs.unity.specs import Behavior, Sensor, read_behavior
from sb3_ppo_plus.errors import InvalidArgument

# ------------------------------------------------ executables


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "platform, there, given",
    [
        ("linux", "b/game.x86_64", "b/game"),
        ("linux", "b/game.x86_64", "b/game.x86_64"),
        ("linux", "b/game.x86", "b/game"),
        ("linux", "b/game", "b/game"),
        ("linux", "b/game.x86_64", "b"),
        ("linux", "my.app.dir/game.x86_64", "my.app.dir/game"),
        ("win32", "b/Game.exe", "b/Game"),
        ("win32", "b/Game.exe", "b"),
        ("darwin", "b/Game.app/Contents/MacOS/Game", "b/Game"),
        ("darwin", "b/Game.app/Contents/MacOS/Other", "b/Game.app"),
    ],
)
def test_a_build_is_found_by_any_of_its_names(platform: str, there: str, given: str, tmp_path: Path) -> None:
    program = touch(tmp_path / there)
    assert find_executable(tmp_path / given, platform) == program.resolve()


def test_what_is_no_build_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "b/one.x86_64"), touch(tmp_path / "b/two.x86_64")
    with pytest.raises(UnityError, match=r"several programs \(one.x86_64, two.x86_64\)"):
        find_executable(tmp_path / "b", "linux")
    touch(tmp_path / "c/UnityCrashHandler64.exe")
    with pytest.raises(UnityError, match="there is no game at"):
        find_executable(tmp_path / "c", "win32")


def test_arguments_of_a_game() -> None:
    assert game_arguments(5005, False, Path("/l/Player-0.log"), ["--level", "3"]) == [
        *["-nographics", "-batchmode", "--mlagents-port", "5005", "-logFile", "/l/Player-0.log", "--level", "3"]
    ]
    assert game_arguments(5005, True, Path("/l"), ["-logfile", "x"]) == ["--mlagents-port", "5005", "-logfile", "x"]


# ------------------------------------------------ behaviors


def test_a_behavior_of_the_time_before_hybrids() -> None:
    parameters = message_class("brain_parameters_pb2", "BrainParametersProto")(brain_name="Old")
    agent = message_class("agent_info_pb2", "AgentInfoProto")()
    agent.observations.add().shape.extend([4])
    parameters.vector_action_size_deprecated.extend([3, 2])
    assert read_behavior(parameters, agent, "1.0.0").branches == (3, 2)
    parameters.vector_action_space_type_deprecated = 1
    assert read_behavior(parameters, agent, "1.0.0").n_continuous == 3


@pytest.mark.parametrize("version, last", [("2.3.0", True), ("3.0.0", False), ("4.1.0", False), ("", False)])
def test_where_nothing_is_said_of_an_image_the_packages_version_decides(version: str, last: bool) -> None:
    parameters = message_class("brain_parameters_pb2", "BrainParametersProto")(brain_name="Eyes")
    parameters.action_spec.num_continuous_actions = 1
    agent = message_class("agent_info_pb2", "AgentInfoProto")()
    agent.observations.add().shape.extend([3, 8, 3])
    (sensor,) = read_behavior(parameters, agent, version).sensors
    assert sensor.channels_last == last and sensor.shape == ((3, 3, 8) if last else (3, 8, 3))


def test_spaces_of_a_behavior() -> None:
    image, vector = Sensor("eye", (3, 8, 9)), Sensor("body", (4,))
    both = Behavior("B", (image, vector), 0, (5,))
    assert both.observation_space() == spaces.Dict(
        {"obs_0": spaces.Box(0, 255, (3, 8, 9), np.uint8), "obs_1": spaces.Box(-np.inf, np.inf, (4,))}
    )
    assert both.observation_space(float_images=True)["obs_0"] == spaces.Box(0, 1, (3, 8, 9))
    assert both.action_space() == spaces.Discrete(5)
    with pytest.raises(UnityError, match="has no actions"):
        Behavior("B", (vector,), 0, ()).action_space()


# ------------------------------------------------ pictures


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def observation(data: bytes, shape: tuple[int, ...], mapping: tuple[int, ...] = ()) -> Any:
    proto = message_class("observation_pb2", "ObservationProto")(compression_type=1, compressed_data=data)
    proto.shape.extend(shape)
    proto.compressed_channel_mapping.extend(mapping)
    return proto


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
MORE = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "data, channels, mapping, expected",
    [
        (png(PIXELS), 3, (0, 1, 2), PIXELS.transpose(2, 0, 1)),
        (png(PIXELS), 3, (), PIXELS.transpose(2, 0, 1)),
        # one grey channel, which is the mean of three
        (png(PIXELS), 1, (0, 0, 0), np.rint(PIXELS.mean(axis=2))[None]),
        (png(PIXELS), 1, (), np.rint(PIXELS.mean(axis=2))[None]),
        # four channels in two pictures, the last two of which are left over
        (png(PIXELS) + png(MORE), 4, (0, 1, 2, 3, -1, -1), [*PIXELS.transpose(2, 0, 1), MORE[:, :, 0]]),
        (png(PIXELS) + png(MORE), 6, (), [*PIXELS.transpose(2, 0, 1), *MORE.transpose(2, 0, 1)]),
    ],
)
def test_pictures_behind_each_other_and_their_channels(
    data: bytes, channels: int, mapping: tuple[int, ...], expected: Any
) -> None:
    sensor = Sensor("eye", (channels, 4, 5), compressed=True)
    (found,) = read_observations([observation(data, (channels, 4, 5), mapping)], sensor, float_images=False)
    assert found.dtype == np.uint8 and np.array_equal(found, np.asarray(expected))
    (floats,) = read_observations([observation(data, (channels, 4, 5), mapping)], sensor, float_images=True)
    np.testing.assert_allclose(floats, np.asarray(expected) / 255.0, atol=0.5 / 255.0)


def test_observations_that_do_not_fit_are_told() -> None:
    sensor = Sensor("eye", (3, 4, 5), compressed=True)
    with pytest.raises(UnityError, match=r"sends 3 channels with the mapping \[0, 1, -1\] and should give 3"):
        read_observations([observation(png(PIXELS), (3, 4, 5), (0, 1, -1))], sensor, False)
    with pytest.raises(UnityError, match=r"sends shape \(3, 4, 6\) and began with \(3, 4, 5\)"):
        read_observations([observation(png(PIXELS), (3, 4, 6))], sensor, False)


@pytest.mark.parametrize("n", [3, 63, 64, 1000])
def test_floats_are_read_from_their_bytes(n: int) -> None:
    proto = message_class("observation_pb2", "ObservationProto")()
    values = np.random.default_rng(n).normal(size=n).astype(np.float32)
    proto.shape.append(n)
    proto.float_data.data.extend(values.tolist())
    assert np.array_equal(read_observations([proto], Sensor("body", (n,)), False)[0], values)
    del proto.float_data.data[-1]
    with pytest.raises(UnityError, match=rf"of shape \({n},\) sends \[{n - 1}\] numbers"):
        read_observations([proto], Sensor("body", (n,)), False)


# ------------------------------------------------ parameters


def test_parameters_in_the_form_of_mlagents() -> None:
    uniform = {"sampler_type": "uniform", "sampler_parameters": {"min_value": 1, "max_value": 2}}
    constant = {"sampler_type": "constant", "sampler_parameters": {"value": 3}}
    found = read_parameters({"a": 1, "b": uniform, "c": constant})
    assert found == {"a": 1.0, "b": Sampler("uniform", (1, 2)), "c": 3.0}


LESSON = {"value": 1, "completion_criteria": {"threshold": 0.5}}


@pytest.mark.parametrize(
    "value, words",
    [
        (True, "is True; give a number"),
        (float("nan"), "give a number"),
        ({"sampler_type": "beta"}, "sampler_type='beta'; there are uniform, gaussian, multirangeuniform"),
        ({"sampler_type": "uniform", "sampler_parameters": {"min": 1}}, "takes min_value, max_value, not min"),
        (
            {"sampler_type": "uniform", "sampler_parameters": {"min_value": 2, "max_value": 1}},
            r"uniform sampler of \[2, 1\], which is no range",
        ),
        (
            {"sampler_type": "gaussian", "sampler_parameters": {"mean": 2, "st_dev": -1}},
            r"gaussian sampler of \[2, -1\], which is no range",
        ),
        ({"curriculum": []}, "needs a list of lessons"),
        ({"curriculum": [{"value": 1}, {"value": 2}]}, "lesson 'Lesson0' of 'x' needs completion_criteria"),
        ({"curriculum": [LESSON]}, "ends the curriculum and takes no completion_criteria"),
        (
            {"curriculum": [{"value": 1, "completion_criteria": {"measure": "time"}}, {"value": 2}]},
            "measure='time'; there are reward and progress",
        ),
        ({"curriculum": [{"value": 1, "completion_criteria": {}}, {"value": 2}]}, "need a threshold"),
        ({"curriculum": [{"value": 1, "completion_criteria": {"goal": 1}}, {"value": 2}]}, "unknown criterion 'goal'"),
    ],
)
def test_parameters_that_mlagents_would_not_take(value: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        read_parameters({"x": value})


def test_a_lesson_ends_when_its_measure_is_beyond_the_threshold() -> None:
    lessons = [
        Lesson("a", 1.0, "reward", 2.0, min_lesson_length=3),
        Lesson("b", 2.0, "progress", 0.5),
        Lesson("c", 3.0),
    ]
    curriculum = Curriculum("x", lessons)
    curriculum.note([9.0, 9.0])
    assert not curriculum.advance(0.0), "two episodes are too few"
    curriculum.note([0.0])
    assert curriculum.advance(0.0), "mean 6 > 2"
    assert curriculum.lesson.name == "b" and not curriculum.advance(0.5) and curriculum.advance(0.51)
    curriculum.note([100.0] * 10)
    assert not curriculum.advance(1.0), "the last one has no end"


def test_smoothing_weighs_the_past_with_a_quarter() -> None:
    curriculum = Curriculum("x", [Lesson("a", 1.0, "reward", 2.0, 1, signal_smoothing=True), Lesson("b", 2.0)])
    curriculum.note([2.4])
    assert not curriculum.advance(0.0)  # 0.75 * 2.4 = 1.8
    curriculum.note([2.4])
    assert curriculum.advance(0.0)  # 0.25 * 1.8 + 0.75 * 2.4 = 2.25


def test_statistics_are_joined_as_the_game_says() -> None:
    statistics = Statistics()
    for key, aggregation in (("mean", 0), ("last", 1), ("sum", 2), ("histogram", 3)):
        for value in (1.0, 2.0, 6.0):
            statistics.note(key, value, aggregation)
    assert statistics.take() == {"mean": 3.0, "last": 6.0, "sum": 9.0, "histogram": 3.0}
    assert statistics.take() == {}


def test_settings_of_the_engine() -> None:
    assert engine_settings(20, None)["width"] == 84 and engine_settings(5, {"width": 10.0})["width"] == 10
    for wrong, words in (({"time_scale": 3}, "argument of its own"), ({"width": "wide"}, "has to be a number")):
        with pytest.raises(InvalidArgument, match=words):
            engine_settings(1, wrong)
