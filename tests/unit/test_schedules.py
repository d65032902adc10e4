"""Schedules: values computed by hand, equality with SB3's, and errors that name the argument and the remedy."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.utils import ConstantSchedule as Sb3Constant
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.utils import LinearSchedule as Sb3Linear

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.schedules import (
    BaseSchedule,
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    PiecewiseSchedule,
    PolynomialSchedule,
    check_schedule,
    is_constant,
    parse_schedule,
    tell_num_timesteps,
)

EACH_SHAPE: list[BaseSchedule] = [
    ConstantSchedule(3e-4),
    ConstantSchedule(3e-4, warmup_fraction=0.1),
    LinearSchedule(0.01, 0.0, 0.5, start_fraction=0.1),
    LinearSchedule(3e-4, 0.0, unit="steps", start_step=100, end_step=1000, warmup_steps=50, warmup_start=1e-5),
    CosineSchedule(1.0, 0.0),
    ExponentialSchedule(1e-2, 1e-4),
    PolynomialSchedule(1.0, 0.0, power=3),
    PiecewiseSchedule([(0, 1.0), (0.5, 0.1)], interpolation="step"),
    PiecewiseSchedule([(0, 1.0), (5000, 0.1)], unit="steps"),
]


def test_an_invalid_argument_is_caught_as_what_it_means_and_as_what_sb3_raises() -> None:
    assert issubclass(InvalidArgument, ValueError)
    assert issubclass(InvalidArgument, AssertionError)


@pytest.mark.parametrize(
    ("start", "end", "end_fraction"), [(0.01, 0.0, 1.0), (3e-4, 1e-5, 0.1), (0.0, 1.0, 0.3), (1, 0, 1)]
)
def test_linear_equals_sb3_to_the_last_bit(start: float, end: float, end_fraction: float) -> None:
    ours, theirs = LinearSchedule(start, end, end_fraction), Sb3Linear(start, end, end_fraction)
    # Rollouts overshoot total_timesteps, so progress goes slightly below 0; 0.7 and 0.9 are end points of the cases.
    moments = [*np.random.default_rng(0).random(2000).tolist(), 1.0, 0.9, 0.7, 0.5, 0.0, -0.02]
    assert [ours(moment) for moment in moments] == [theirs(moment) for moment in moments]


# A quarter, half and three quarters of a run from 1 to 0.01 (f = 0.25, 0.5, 0.75):
#   linear       1 - 0.99 f                          0.7525       0.505        0.2575
#   cosine       0.01 + 0.99 (1 + cos(pi f)) / 2     0.01 + 0.99 * 0.853553 = 0.855018; 0.505; 0.01 + 0.99 * 0.146447
#   exponential  0.01 ** f                           0.316228     0.1          0.0316228
#   polynomial   0.01 + 0.99 (1 - f)^2               0.566875     0.2575       0.071875
@pytest.mark.parametrize(
    ("shape", "quarter", "half", "three_quarters"),
    [
        (LinearSchedule, 0.7525, 0.505, 0.2575),
        (CosineSchedule, 0.8550178, 0.505, 0.1549822),
        (ExponentialSchedule, 0.3162278, 0.1, 0.03162278),
        (PolynomialSchedule, 0.566875, 0.2575, 0.071875),
    ],
)
def test_shapes_by_hand(shape: type[LinearSchedule], quarter: float, half: float, three_quarters: float) -> None:
    schedule = shape(1.0, 0.01)
    assert [schedule(p) for p in (1.0, 0.75, 0.5, 0.25, 0.0)] == pytest.approx(
        [1.0, quarter, half, three_quarters, 0.01], rel=1e-6
    )


@pytest.mark.parametrize("shape", [LinearSchedule, CosineSchedule, ExponentialSchedule, PolynomialSchedule])
def test_the_window_holds_both_ends(shape: type[LinearSchedule]) -> None:
    schedule = shape(2.0, 1.0, 0.75, start_fraction=0.25)
    assert [schedule(p) for p in (1.0, 0.75, 0.2, 0.0, -0.1)] == [2.0, 2.0, 1.0, 1.0, 1.0]
    # The middle of the window [0.25, 0.75] is the middle of the run, and there a whole-run curve has the same value.
    assert schedule(0.5) == pytest.approx(shape(2.0, 1.0)(0.5))


def test_polynomial_of_power_one_is_the_line_and_half_a_power_falls_late() -> None:
    assert PolynomialSchedule(1.0, 0.0, power=1)(0.3) == pytest.approx(0.3)
    assert PolynomialSchedule(1.0, 0.0, power=0.5)(0.25) == pytest.approx(0.5)  # sqrt(1 - 0.75) = 0.5


def test_warm_up_rises_to_start_and_the_change_begins_after_it() -> None:
    schedule = LinearSchedule(1.0, 0.0, warmup_fraction=0.2, warmup_start=0.5)
    # Over: 0 -> 0.5; 0.1 is half of the warm-up -> 0.75; 0.2 -> 1; 0.6 is half of the rest -> 0.5; 1 -> 0.
    assert [schedule(p) for p in (1.0, 0.9, 0.8, 0.4, 0.0)] == pytest.approx([0.5, 0.75, 1.0, 0.5, 0.0])


def test_warm_up_of_a_constant_and_of_a_piecewise_curve() -> None:
    assert ConstantSchedule(4.0, warmup_fraction=0.5)(0.75) == pytest.approx(2.0)  # half of the warm-up: half of 4
    # Towards the curve's value where the warm-up ends: at 0.5 of a line from 4 to 0 that is 2, so half-way it is 1.
    assert PiecewiseSchedule([(0, 4.0), (1, 0.0)], warmup_fraction=0.5)(0.75) == pytest.approx(1.0)


def test_piecewise_joins_or_keeps() -> None:
    points = [(0.2, 1.0), (0.4, 3.0), (1.0, 0.0)]
    line, stairs = PiecewiseSchedule(points), PiecewiseSchedule(points, interpolation="step")
    over = (0.0, 0.2, 0.3, 0.4, 0.7, 1.0)
    assert [line(1 - x) for x in over] == pytest.approx([1.0, 1.0, 2.0, 3.0, 1.5, 0.0])
    # Binary fractions, so that "exactly at the point" is exact: the new value holds from the point on.
    stairs = PiecewiseSchedule([(0.25, 1.0), (0.5, 3.0), (1.0, 0.0)], interpolation="step")
    assert [stairs(1 - x) for x in (0.0, 0.25, 0.375, 0.5, 0.75, 1.0)] == [1.0, 1.0, 1.0, 3.0, 3.0, 0.0]


def test_a_steps_schedule_depends_on_the_count_alone() -> None:
    schedule = LinearSchedule(1.0, 0.0, unit="steps", start_step=100, end_step=300)
    values = {}
    for count in (0, 100, 150, 200, 300, 10**6):
        schedule.set_num_timesteps(count)
        # Progress 0.9 and 0.1 are the same count in a long and in a short run.
        assert schedule(0.9) == schedule(0.1) == schedule.value_at(num_timesteps=count)
        values[count] = schedule(0.5)
    assert values == {0: 1.0, 100: 1.0, 150: 0.75, 200: 0.5, 300: 0.0, 10**6: 0.0}


def test_warm_up_in_steps() -> None:
    schedule = CosineSchedule(1.0, 0.0, unit="steps", warmup_steps=10, end_step=20)
    # 5 of 10 warm-up steps; its end; half-way of the cosine from step 10 to step 20.
    assert [schedule.value_at(num_timesteps=n) for n in (0, 5, 10, 15, 20)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_a_steps_schedule_that_nobody_told_says_so_instead_of_standing_still() -> None:
    schedule = LinearSchedule(1.0, 0.0, unit="steps", end_step=300)
    assert schedule(1.0) == 1.0  # SB3 asks once while it builds the optimizer, before the run
    with pytest.raises(InvalidArgument, match="never told"):
        schedule(0.99)


def test_value_at_is_pure_and_asks_for_what_it_needs() -> None:
    schedule = LinearSchedule(1.0, 0.0, unit="steps", end_step=300)
    schedule.value_at(num_timesteps=150)
    assert schedule.num_timesteps is None
    with pytest.raises(InvalidArgument, match="num_timesteps"):
        schedule.value_at(progress=0.5)
    with pytest.raises(InvalidArgument, match="progress="):
        LinearSchedule(1.0, 0.0).value_at(num_timesteps=3)


def test_the_count_is_told_through_sb3s_wrapper_and_only_to_who_wants_it() -> None:
    schedule = LinearSchedule(1.0, 0.0, unit="steps", end_step=300)
    tell_num_timesteps(FloatSchedule(schedule), 150)
    assert schedule(0.3) == 0.5
    tell_num_timesteps(3e-4, 150)
    tell_num_timesteps(FloatSchedule(3e-4), 150)
    with pytest.raises(InvalidArgument, match="-1"):
        tell_num_timesteps(schedule, -1)


@pytest.mark.parametrize("schedule", EACH_SHAPE, ids=repr)
def test_copies_and_configs_are_equal(schedule: BaseSchedule) -> None:
    if schedule.unit == "steps":
        schedule.set_num_timesteps(400)
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert twin == schedule
        # where the run stands is the model's to tell: a count that was saved would stand still under SB3's PPO
        assert twin.num_timesteps is None
        if schedule.unit == "steps":
            twin.set_num_timesteps(400)
        assert twin(0.3) == schedule(0.3)
    assert parse_schedule(schedule.to_config(), "learning_rate") == schedule
    assert eval(repr(schedule)) == schedule


def test_equality_is_of_curves_not_of_counts() -> None:
    one, two = (LinearSchedule(1.0, 0.0, unit="steps", end_step=300) for _ in range(2))
    one.set_num_timesteps(5)
    assert one == two
    assert one != LinearSchedule(1.0, 0.0, unit="steps", end_step=301)
    assert LinearSchedule(1.0, 0.0) != CosineSchedule(1.0, 0.0)


def test_repr_and_config_leave_defaults_out() -> None:
    schedule = LinearSchedule(3e-4, 0, warmup_fraction=0.1)
    assert repr(schedule) == "LinearSchedule(start=0.0003, end=0.0, warmup_fraction=0.1)"
    assert schedule.to_config() == {"type": "linear", "start": 3e-4, "end": 0.0, "warmup_fraction": 0.1}


def test_sb3_trains_saves_and_loads_with_one(tmp_path: Any) -> None:
    model = PPO("MlpPolicy", "CartPole-v1", learning_rate=LinearSchedule(1e-3, 0.0), n_steps=64, batch_size=64)
    model.learn(128)
    # Two rollouts of 64 of 128 steps: the second update ran at progress 1 - 128 / 128 = 0.
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0
    model.save(tmp_path / "model.zip")
    assert PPO.load(tmp_path / "model.zip").learning_rate == LinearSchedule(1e-3, 0.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3e-4, 3e-4),
        (0, 0.0),
        (np.float32(0.5), 0.5),
        ("3e-4", 3e-4),
        (" 0.2 ", 0.2),
        ("lin_3e-4", LinearSchedule(3e-4, 0)),
        ("cos_3e-4", CosineSchedule(3e-4, 0)),
        ("exp_1.0", ExponentialSchedule(1.0, 0.01)),
        ("const_0.1", ConstantSchedule(0.1)),
        ({"type": "linear", "start": "3e-4", "end": 0}, LinearSchedule(3e-4, 0)),
        ({"type": "polynomial", "start": 1, "end": 0, "power": 3}, PolynomialSchedule(1, 0, power=3)),
        ({"type": "piecewise", "points": [[0, "1e-3"], ["1", 0]]}, PiecewiseSchedule([(0, 1e-3), (1, 0)])),
        (
            {"type": "cosine", "start": 1, "end": 0, "unit": "steps", "end_step": "1e6"},
            CosineSchedule(1, 0, unit="steps", end_step=10**6),
        ),
    ],
)
def test_parse(value: Any, expected: Any) -> None:
    parsed = parse_schedule(value, "learning_rate")
    assert parsed == expected
    assert type(parsed) is type(expected)


def test_a_callable_is_returned_as_it_is() -> None:
    def own(progress: float) -> float:
        return 3e-4 * progress

    assert parse_schedule(own, "learning_rate") is own


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", r"clip_range must be a number.*got 'fast'"),
        ("lin_", r"clip_range must be .*got 'lin_'"),
        ("sin_0.1", r"clip_range must be .*const_, lin_, cos_, exp_.*got 'sin_0.1'"),
        ("nan", r"clip_range must be .*got 'nan'"),
        ("lin_inf", r"clip_range must be .*got 'lin_inf'"),
        ("exp_0", r"clip_range='exp_0'.*start > 0"),
        (math.inf, r"clip_range must be .*got inf"),
        (True, r"clip_range must be .*got True"),
        (None, r"clip_range must be .*got None"),
        ([0.1, 0.2], r"clip_range must be .*got \[0.1, 0.2\]"),
        (
            {"type": "liner", "start": 1, "end": 0},
            r"clip_range: unknown .*'liner'; did you mean 'linear'\? Valid: const",
        ),
        ({"start": 1, "end": 0}, r"clip_range: unknown schedule type None; valid: constant, linear"),
        ({"type": ["linear"]}, r"clip_range: unknown schedule type"),
        (
            {"type": "linear", "strat": 1, "end": 0},
            r"unknown key 'strat' .*did you mean 'start'\? Valid: start",
        ),
        ({"type": "linear", "start": 1}, r"clip_range: a linear schedule needs end, got"),
        ({"type": "cosine"}, r"needs start and end"),
        ({"type": "constant", "value": "much"}, r"clip_range=.*value must be a finite number, got 'much'"),
        ({"type": "linear", "start": 1, "end": 0, "num_timesteps": 3}, r"unknown key 'num_timesteps'"),
    ],
)
def test_parse_errors_name_the_argument_and_the_remedy(value: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse_schedule(value, "clip_range")


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        (LinearSchedule, {"start": math.nan, "end": 0}, "start must be a finite number, got nan"),
        (LinearSchedule, {"start": 1, "end": True}, "end must be a finite number, got True"),
        (LinearSchedule, {"start": 1, "end": 0, "end_fraction": 0.0}, "end_fraction=0.0"),
        (LinearSchedule, {"start": 1, "end": 0, "end_fraction": 1.5}, "end_fraction=1.5"),
        (LinearSchedule, {"start": 1, "end": 0, "start_fraction": -0.1}, "start_fraction=-0.1"),
        (
            LinearSchedule,
            {"start": 1, "end": 0, "end_fraction": 0.4, "start_fraction": 0.4},
            "begins at 0.4 and ends at 0.4",
        ),
        (LinearSchedule, {"start": 1, "end": 0, "end_fraction": 0.4, "warmup_fraction": 0.5}, "begins at 0.5"),
        (LinearSchedule, {"start": 1, "end": 0, "warmup_fraction": 1.0}, r"\[0, 1\), got 1.0"),
        (LinearSchedule, {"start": 1, "end": 0, "unit": "episodes"}, "progress, steps, got 'episodes'"),
        (LinearSchedule, {"start": 1, "end": 0, "unit": "steps"}, "end_step=None"),
        (
            LinearSchedule,
            {"start": 1, "end": 0, "unit": "steps", "end_step": 10, "start_step": 10},
            "environment steps",
        ),
        (LinearSchedule, {"start": 1, "end": 0, "unit": "steps", "end_step": 1.5}, "whole number .*got 1.5"),
        (LinearSchedule, {"start": 1, "end": 0, "end_step": 10}, "end_step=10 does not go with unit='progress'"),
        (ConstantSchedule, {"value": 1, "warmup_steps": 10}, "warmup_steps=10 does not go with unit='progress'"),
        (CosineSchedule, {"start": 1, "end": 0, "unit": "steps", "end_fraction": 0.5}, "end_fraction=0.5 does not go"),
        (ExponentialSchedule, {"start": 1, "end": 0}, "end=0.0.*use a linear"),
        (ExponentialSchedule, {"start": -1, "end": -2}, "start=-1.0"),
        (PolynomialSchedule, {"start": 1, "end": 0, "power": 0}, "power must be > 0"),
        (PiecewiseSchedule, {"points": []}, r"got \[\]"),
        (PiecewiseSchedule, {"points": [(0, 1), (0, 2)]}, r"increasing.*\[0.0, 0.0\]"),
        (PiecewiseSchedule, {"points": [(0, 1), (100, 2)]}, "unit='steps'"),
        (PiecewiseSchedule, {"points": [(0, 1, 2)]}, r"pair \(where, value\), got \(0, 1, 2\)"),
        (PiecewiseSchedule, {"points": [(0, math.inf)]}, "value of a point must be a finite number"),
        (PiecewiseSchedule, {"points": [(0, 1)], "interpolation": "cubic"}, "linear, step, got 'cubic'"),
    ],
)
def test_constructor_errors(shape: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        shape(**arguments)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (-0.1, "ent_coef must be >= 0 and <= 1, got -0.1"),
        (2, "ent_coef must be >= 0 and <= 1, got 2"),
        (math.nan, "ent_coef must be a finite real number, got nan"),
        (True, "ent_coef must be a number or a callable.*got True"),
        ("0.1", "got '0.1'"),
        (lambda progress: progress - 0.25, "at progress_remaining=0, got -0.25"),
        (lambda progress: math.nan if progress < 0.75 else 0.1, "at progress_remaining=0.5, got nan"),
        (FloatSchedule(lambda progress: 2.0), "at progress_remaining=1, got 2.0"),
        (lambda progress: "0.1", "at progress_remaining=1, got '0.1'"),
        (lambda progress: True, "got True"),
        # Neither 1, 0.5 nor 0 sees this peak; the corner does.
        (PiecewiseSchedule([(0, 0.1), (0.25, 7.0), (0.5, 0.1)]), "at progress_remaining=0.75, got 7.0"),
        (PiecewiseSchedule([(0, 0.1), (300, 7.0), (500, 0.1)], unit="steps"), "at step 300, got 7.0"),
        (LinearSchedule(0.1, -0.1, unit="steps", end_step=10), "at step 10, got -0.1"),
    ],
)
def test_check_names_argument_moment_and_value(schedule: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_schedule(schedule, "ent_coef", low=0, high=1)


def test_check_lets_good_ones_pass_and_closes_the_low_end_on_request() -> None:
    for schedule in (0, 0.5, np.float64(1), FloatSchedule(0.3), LinearSchedule(1.0, 0.0), Sb3Linear(1.0, 0.0, 0.5)):
        check_schedule(schedule, "ent_coef", low=0, high=1)
    check_schedule(-5.0, "anything")
    with pytest.raises(InvalidArgument, match=r"must be > 0 at progress_remaining=0, got 0\.0"):
        check_schedule(LinearSchedule(1.0, 0.0), "clip_range", low=0, low_open=True)


def test_check_does_not_need_or_leave_a_step_count() -> None:
    schedule = LinearSchedule(1.0, 0.0, unit="steps", end_step=10)
    check_schedule(FloatSchedule(schedule), "learning_rate", low=0)
    assert schedule.num_timesteps is None


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (3e-4, True),
        (0, True),
        (True, False),
        (ConstantSchedule(1.0), True),
        (ConstantSchedule(1.0, warmup_fraction=0.1), False),
        (ConstantSchedule(1.0, unit="steps", warmup_steps=5), False),
        (Sb3Constant(1.0), True),
        (FloatSchedule(1.0), True),
        (FloatSchedule(ConstantSchedule(1.0)), True),
        (FloatSchedule(LinearSchedule(1.0, 0.0)), False),
        (Sb3Linear(1.0, 0.0, 1.0), False),
        (lambda progress: 1.0, False),
        (None, False),
    ],
)
def test_is_constant(schedule: Any, expected: bool) -> None:
    assert is_constant(schedule) is expected


def test_configuration_can_be_checked_without_loading_torch() -> None:
    code = "import sys, sb3_ppo_plus.schedules; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
