"""sb3_ppo_plus.profiling: sections add up to the wall time, whatever happens inside them; what is told of it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from helpers import Recorder
from stable_baselines3.common.logger import Logger

from sb3_ppo_plus import profiling
from sb3_ppo_plus.profiling import OTHER, Profile, ProfileReport, log_profile, profile_values, split


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.nanoseconds = 5_000_000_000_000_000_003  # more than a float holds exactly

    def __call__(self) -> int:
        return self.nanoseconds

    def run(self, seconds: float) -> None:
        self.nanoseconds += round(seconds * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(profiling.time, "perf_counter_ns", clock)
    return clock


class Robot:
    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def step(self, action: int) -> int:
        self.clock.run(self.seconds)
        if action < 0:
            raise ValueError("no such action")
        return 10 * action


def test_time_belongs_to_the_section_that_runs(clock: Clock) -> None:
    profile = Profile()
    clock.run(0.25)
    assert profile.switch("a") == OTHER
    clock.run(2.0)
    assert profile.switch("b") == "a"
    clock.run(0.5)
    assert profile.switch("a") == "b"
    clock.run(1.0)
    assert profile.take() == {OTHER: 0.25, "a": 3.0, "b": 0.5}


def test_an_inner_section_is_not_counted_in_the_outer_one(clock: Clock) -> None:
    profile = Profile()
    with profile.section("outer"):
        clock.run(1.0)
        with profile.section("inner"):
            clock.run(4.0)
            with profile.section("outer"):
                clock.run(0.5)
        clock.run(2.0)
    assert profile.take() == {OTHER: 0.0, "outer": 3.5, "inner": 4.0}
    assert profile.wall == 7.5


def test_an_exception_gives_the_clock_back_to_the_section_before(clock: Clock) -> None:
    profile = Profile()
    with profile.section("outer"):
        with pytest.raises(ZeroDivisionError), profile.section("inner"):
            clock.run(1.0)
            raise ZeroDivisionError
        assert profile.switch("outer") == "outer"
    assert profile.switch(OTHER) == OTHER
    assert profile.totals == {OTHER: 0.0, "outer": 0.0, "inner": 1.0}


def test_take_tells_the_time_since_the_last_one_and_totals_all_of_it(clock: Clock) -> None:
    profile = Profile()
    with profile.section("a"):
        clock.run(3.0)
    assert profile.take() == {OTHER: 0.0, "a": 3.0}
    clock.run(1.0)
    assert profile.take() == {OTHER: 1.0, "a": 0.0}
    with profile.section("a"):
        clock.run(0.5)
    assert profile.take() == {OTHER: 0.0, "a": 0.5}
    assert profile.totals == {OTHER: 1.0, "a": 3.5}
    assert profile.wall == 4.5


def test_the_section_that_runs_goes_on_after_a_take_and_after_a_restart(clock: Clock) -> None:
    profile = Profile()
    with profile.section("a"):
        clock.run(1.0)
        assert profile.take()["a"] == 1.0
        clock.run(2.0)
        assert profile.take()["a"] == 2.0
        profile.restart()
        clock.run(4.0)
    assert profile.totals == {"a": 4.0}
    assert profile.wall == 4.0
    assert profile.take() == {"a": 4.0, OTHER: 0.0}


def test_the_real_clock_adds_up_to_the_wall_time_to_the_nanosecond() -> None:
    profile = Profile()
    for index in range(1000):
        with profile.section(f"section {index % 7}"), profile.section("inner"):
            pass
        if index % 100 == 0:
            profile.take()
    # what totals and wall show are these whole numbers, over 1e9
    assert sum(profile._totals.values()) == profile._since - profile._begun > 0
    assert sum(profile.totals.values()) == pytest.approx(profile.wall, rel=1e-12)


def test_timing_counts_calls_and_puts_the_method_back(clock: Clock) -> None:
    profile, robot = Profile(), Robot(clock, 0.5)
    with profile.timing({"env": (robot, "step")}):
        clock.run(1.0)
        assert robot.step(3) == 30
        assert robot.step(action=4) == 40
    assert "step" not in vars(robot)
    assert robot.step(5) == 50
    assert profile.take() == {OTHER: 1.5, "env": 1.0}


def test_timing_puts_methods_back_after_an_exception(clock: Clock) -> None:
    profile, robot = Profile(), Robot(clock, 0.5)
    with pytest.raises(ValueError, match="no such action"), profile.timing({"env": (robot, "step")}):
        robot.step(-1)
    assert "step" not in vars(robot)
    assert profile.take() == {OTHER: 0.0, "env": 0.5}
    with (
        pytest.raises(AttributeError),
        profile.timing({"env": (robot, "step"), "policy": (robot, "no_such_method")}),
    ):
        pass
    assert "step" not in vars(robot)


def test_timing_leaves_what_someone_else_put_on_the_object(clock: Clock) -> None:
    profile, robot = Profile(), Robot(clock, 0.5)
    stand_in = lambda action: -action  # noqa: E731
    robot.step = stand_in  # type: ignore[method-assign]
    with profile.timing({"env": (robot, "step")}), profile.timing({"inner": (robot, "step")}):
        assert robot.step(3) == -3
    assert robot.step is stand_in


def test_what_is_timed_can_be_saved_and_copied_meanwhile(clock: Clock) -> None:
    profile, robot = Profile(), Robot(clock, 0.5)
    with profile.timing({"env": (robot, "step")}):
        saved, copied = pickle.loads(pickle.dumps(robot)), copy.deepcopy(robot)
        robot.step(1)
    for other in (saved, copied):
        assert other.step(3) == 30
        assert other.step.__self__ is other  # its own method, untimed
        assert other.clock is not clock
    assert profile.take() == {OTHER: 0.0, "env": 0.5}


class Model:
    """What log_profile needs."""

    def __init__(self) -> None:
        self.profile = Profile()
        self.recorder = Recorder()
        self.logger = Logger(folder=None, output_formats=[self.recorder])


def test_log_profile_records_each_section_and_the_memory_but_not_on_the_screen(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "resident_memory", lambda: 321.5)
    model = Model()
    with model.profile.section("gradient"):
        clock.run(2.0)
    log_profile(model)
    assert set(model.logger.name_to_excluded.values()) == {("stdout",)}
    model.logger.dump()
    with model.profile.section("policy"):
        clock.run(0.5)
    log_profile(model)
    model.logger.dump()
    assert model.recorder.dumps == [
        {"time/other_seconds": 0.0, "time/gradient_seconds": 2.0, "time/memory_mib": 321.5},
        {
            "time/other_seconds": 0.0,
            "time/gradient_seconds": 0.0,
            "time/policy_seconds": 0.5,
            "time/memory_mib": 321.5,
        },
    ]


def test_memory_is_left_out_where_the_system_does_not_tell() -> None:
    assert profile_values({"env": 1.5}) == {"time/env_seconds": 1.5}
    assert profile_values({"env": 1.5}, None) == {"time/env_seconds": 1.5}


def make_report(**overrides: Any) -> ProfileReport:
    arguments: dict[str, Any] = {
        "seconds": {"env": 1.0, "gradient": 1.25, "evaluation": 0.75, OTHER: 0.0},
        "wall": 3.0,
        "vector_steps": 2000,
        "gradient_steps": 500,
        "threads": 1,
        "memory": (300.0, 310.4, 400.0),
    }
    return ProfileReport(**{**arguments, **overrides})


def test_the_table_tells_the_longest_section_first_and_its_time_per_step() -> None:
    # 1.25 s / 500 = 2500 us; 1 s / 2000 = 500 us; shares 41.67, 33.33 and 25 %
    assert make_report().table().splitlines() == [
        "2,000 vector steps, 500 gradient steps, torch on 1 thread",
        "  section           seconds     share",
        "  gradient            1.250    41.7 %      2,500.0 us per gradient step",
        "  env                 1.000    33.3 %        500.0 us per vector step",
        "  evaluation          0.750    25.0 %",
        "  other               0.000     0.0 %",
        "  sum                 3.000   100.0 %   of 3.000 s wall time",
        "memory: 300 MiB when training began, 310 MiB at its end, 400 MiB at most",
    ]


def test_the_table_hides_no_lost_time() -> None:
    lines = make_report(wall=4.0).table().splitlines()
    assert lines[-2] == "  sum                 3.000    75.0 %   of 4.000 s wall time"


def test_the_table_of_a_training_that_ended_at_once() -> None:
    table = make_report(seconds={OTHER: 0.0, "gradient": 0.0}, wall=0.0, vector_steps=0, gradient_steps=1).table()
    assert table.startswith("0 vector steps, 1 gradient step, torch on 1 thread\n")
    assert "  sum                 0.000     0.0 %   of 0.000 s wall time" in table
    unknown = make_report(vector_steps=0, memory=(None, None, 12.0)).table()
    assert "per vector step" not in unknown
    assert unknown.endswith("memory: unknown when training began, unknown at its end, 12 MiB at most")


@pytest.mark.parametrize(
    ("parts", "whole", "expected"),
    [
        ([1.0, 1.0, 1.0], 100, [34, 33, 33]),  # 33.3 each: one is left over
        ([2.0, 1.0], 100, [67, 33]),  # 66.67 and 33.33
        ([0.1, 99.9], 10, [0, 10]),  # 0.01 and 9.99
        ([5.0], 1000, [1000]),
        ([0.0, 0.0], 0, [0, 0]),
        ([], 0, []),
    ],
)
def test_split_adds_up(parts: list[float], whole: int, expected: list[int]) -> None:
    assert split(parts, whole) == expected
