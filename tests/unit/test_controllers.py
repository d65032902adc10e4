"""Controllers: each rule by hand, its bounds, its state, its errors."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.utils import FloatSchedule

from sb3_ppo_plus.controllers import (
    Controller,
    EntropyTarget,
    KLBand,
    KLProportional,
    KLStop,
    make_controller,
)
from sb3_ppo_plus.errors import InvalidArgument


def started(controller: Controller, value: float) -> Controller:
    controller.start_at(value)
    return controller


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.0151, 2.0),  # > 1.5 * 0.01: times 2
        (0.0149, 1.0),
        (0.0067, 1.0),
        (0.0066, 0.5),  # < 0.01 / 1.5 = 0.00667: halved
    ],
)
def test_the_papers_rule(kl: float, expected: float) -> None:
    assert started(make_controller("kl_coef", {"type": "kl_band", "target": 0.01}), 1.0).update(kl) == expected


@pytest.mark.parametrize(("kl", "expected"), [(0.021, 0.3), (0.019, 0.2), (0.006, 0.2), (0.004, 0.1)])
def test_rllibs_rule(kl: float, expected: float) -> None:
    """x1.5 beyond twice the target, x0.5 below half of it."""
    controller = make_controller("kl_coef", {"type": "kl_band", "target": 0.01, "rule": "rllib"})
    assert started(controller, 0.2).update(kl) == pytest.approx(expected)


@pytest.mark.parametrize(("kl", "expected"), [(0.021, 1e-3 / 1.5), (0.019, 1e-3), (0.006, 1e-3), (0.004, 1.5e-3)])
def test_rsl_rls_learning_rate_rule(kl: float, expected: float) -> None:
    """The opposite direction: a KL that is too large makes the rate smaller."""
    controller = make_controller("learning_rate", {"type": "kl_band", "target": 0.01})
    assert controller.every == "epoch"
    assert started(controller, 1e-3).update(kl) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.011, 1.1),  # error 0.1
        (0.02, 1.2),  # error 1, clipped to 0.2
        (0.009, 0.9),
        (0.0, 0.8),
    ],
)
def test_proportional_rule(kl: float, expected: float) -> None:
    assert started(KLProportional(0.01), 1.0).update(kl) == pytest.approx(expected)
    inverse = started(KLProportional(0.01, inverse=True), 1.0).update(kl)
    assert inverse == pytest.approx(2.0 - expected)


@pytest.mark.parametrize(
    ("entropy", "expected"),
    [
        (0.5, 0.01 * math.exp(0.1 * 0.5)),  # too low by 0.5 nats: the bonus grows
        (1.5, 0.01 * math.exp(-0.1 * 0.5)),
        (-50.0, 0.01 * math.exp(0.1)),  # the error is clipped at 1 nat
    ],
)
def test_entropy_target_rule(entropy: float, expected: float) -> None:
    assert started(EntropyTarget(1.0, rate=0.1), 0.01).update(entropy) == pytest.approx(expected)


def test_values_stay_in_their_bounds() -> None:
    controller = started(KLBand(0.01, min_value=0.5, max_value=3.0), 1.0)
    assert [controller.update(1.0) for _ in range(3)] == [2.0, 3.0, 3.0]
    assert [controller.update(0.0) for _ in range(4)] == [1.5, 0.75, 0.5, 0.5]


@pytest.mark.parametrize("signal", [float("nan"), float("inf"), -float("inf")])
def test_a_signal_that_is_not_finite_moves_nothing(signal: float) -> None:
    for controller in (KLBand(0.01), KLProportional(0.01), EntropyTarget(1.0)):
        assert started(controller, 0.05).update(signal) == 0.05


def test_a_controller_is_an_sb3_schedule() -> None:
    controller = started(KLBand(0.01), 1.0)
    schedule = FloatSchedule(controller)
    controller.update(1.0)
    assert schedule(0.3) == 2.0


def test_state_is_plain_and_comes_back() -> None:
    controller = started(KLBand(0.01), 1.0)
    controller.update(1.0)
    state = json.loads(json.dumps(controller.state_dict()))
    other = KLBand(0.01)
    other.load_state_dict(state)
    assert other.value == 2.0


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("kl_coef", {"type": "kl_band", "target": 0.01, "rule": "rllib", "max_value": 7.0}),
        ("learning_rate", {"type": "kl_proportional", "target": 0.02, "every": "minibatch"}),
        ("ent_coef", {"type": "entropy_target", "target": -3.0, "rate": 0.2}),
    ],
)
def test_config_round_trip(name: str, config: dict[str, Any]) -> None:
    controller = make_controller(name, config)
    plain = json.loads(json.dumps(controller.to_config()))
    assert make_controller(name, plain).to_config() == controller.to_config()


def test_an_instance_is_copied() -> None:
    mine = KLBand(0.01)
    first, second = make_controller("kl_coef", mine), make_controller("kl_coef", mine)
    first.start_at(5.0)
    assert second.value != 5.0 and mine.value != 5.0


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("kl_coeff", {"type": "kl_band", "target": 0.01}, "did you mean 'kl_coef'"),
        ("clip_range", {"type": "kl_band", "target": 0.01}, "no controller can move 'clip_range'"),
        ("kl_coef", {"type": "kl_bond", "target": 0.01}, "did you mean 'kl_band'"),
        ("kl_coef", {"type": "entropy_target", "target": 0.01}, "cannot move kl_coef"),
        ("kl_coef", {"target": 0.01}, "type is missing"),
        ("kl_coef", {"type": "kl_band"}, "target is missing"),
        ("kl_coef", {"type": "kl_band", "target": 0.01, "bend": 2}, "unknown setting 'bend'.*did you mean 'band'"),
        ("kl_coef", {"type": "kl_band", "target": -0.01}, "target=-0.01 must be greater than 0"),
        ("kl_coef", {"type": "kl_band", "target": float("nan")}, "target=nan must be a finite number"),
        ("kl_coef", {"type": "kl_band", "target": "0.01"}, "target='0.01' must be a finite number"),
        ("kl_coef", {"type": "kl_band", "target": 0.01, "band": 1.0}, "band=1.0 must be greater than 1"),
        ("kl_coef", {"type": "kl_band", "target": 0.01, "factor": 0.5}, "factor=0.5 must be greater than 1"),
        ("kl_coef", {"type": "kl_band", "target": 0.01, "rule": "ppo"}, "rule='ppo' is unknown"),
        ("kl_coef", {"type": "kl_band", "target": 0.01, "min_value": 5, "max_value": 1}, "must be smaller than"),
        ("kl_coef", {"type": "kl_band", "target": 0.01, "every": "epoch"}, "moves once per rollout"),
        ("learning_rate", {"type": "kl_band", "target": 0.01, "every": "step"}, "every='step' is unknown"),
        ("learning_rate", {"type": "kl_band", "target": 0.01, "inverse": False}, "the wrong way"),
        ("kl_coef", KLBand(0.01, inverse=True), "the wrong way"),
        ("ent_coef", KLBand(0.01), "kl_band cannot move ent_coef"),
        ("kl_coef", {"type": "kl_proportional", "target": 0.01, "gain": 5}, "must stay below 1"),
        ("kl_coef", 0.01, "must be a mapping"),
    ],
)
def test_wrong_configurations_name_the_value(name: str, config: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make_controller(name, config)


def test_kl_stop() -> None:
    stop = KLStop(0.02, "minibatch")
    assert stop.checks_minibatches and not stop.checks_epochs and not stop.undoes_epochs
    assert not stop.exceeded(float(np.float32(0.03)))  # 1.5 * 0.02, as in SB3 strictly greater, in single precision
    assert stop.exceeded(0.0301)
    assert not stop.exceeded(float("nan"))
    never = KLStop(None, "minibatch")
    assert not never.checks_minibatches and not never.exceeded(1e9)


def test_repr_is_one_readable_line() -> None:
    assert repr(started(KLBand(0.01), 1.0)).startswith("KLBand(value=1, target=0.01, band=1.5, factor=2.0")
