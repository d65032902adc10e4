"""Sensor noise, late commands and the low-pass filter, by hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch as th

from sb3_ppo_plus.envs.signals import ActionDelay, ActionFilter, ObservationNoise, Signals
from sb3_ppo_plus.errors import InvalidArgument

ALL, NONE = th.tensor([True, True]), th.tensor([False, False])


def test_a_delayed_command_arrives_after_that_many_steps_and_is_zero_before() -> None:
    delay = ActionDelay(2, n_envs=2, size=1)
    delay.reset(ALL, th.Generator())
    given = [th.tensor([[float(t)], [10.0 * t]]) for t in range(1, 5)]
    arrived = [delay(action)[:, 0].tolist() for action in given]
    assert arrived == [[0, 0], [0, 0], [1, 10], [2, 20]]


def test_a_reset_forgets_commands_under_way_of_that_robot_only() -> None:
    delay = ActionDelay(1, n_envs=2, size=1)
    delay(th.tensor([[1.0], [2.0]]))
    delay.reset(th.tensor([True, False]), th.Generator())
    assert delay(th.tensor([[3.0], [4.0]]))[:, 0].tolist() == [0, 2]


def test_delays_are_drawn_anew_at_reset_within_both_bounds() -> None:
    delay, generator = ActionDelay((1, 3), n_envs=2000, size=1), th.Generator().manual_seed(0)
    delay.reset(th.ones(2000, dtype=th.bool), generator)
    shares = [(delay.delays == steps).double().mean().item() for steps in range(5)]
    assert shares[0] == shares[4] == 0.0
    # Three equally likely values: 1/3 within four standard errors of 0.0105.
    assert all(abs(share - 1 / 3) < 0.042 for share in shares[1:4])
    before = delay.delays.clone()
    delay.reset(th.zeros(2000, dtype=th.bool), generator)
    assert th.equal(delay.delays, before)


def test_the_filter_answers_a_step_like_a_first_order_low_pass() -> None:
    # After one time constant 1/(2 pi f) a unit step has reached 1 - 1/e.
    cutoff, dt = 2.0, 0.001
    low_pass = ActionFilter(cutoff, dt, n_envs=1, size=1)
    steps = round(1 / (2 * math.pi * cutoff) / dt)
    for _ in range(steps):
        answer = low_pass(th.ones(1, 1))
    assert answer.item() == pytest.approx(1 - math.exp(-steps * dt * 2 * math.pi * cutoff), abs=1e-5)
    low_pass.reset(th.tensor([True]))
    assert low_pass.output.item() == 0.0


def test_noise_has_the_deviation_that_was_asked_for_per_dimension() -> None:
    noise = ObservationNoise([0.0, 0.5], size=2)
    noisy = noise(th.ones(20_000, 2, dtype=th.float64), th.Generator().manual_seed(1))
    assert th.equal(noisy[:, 0], th.ones(20_000, dtype=th.float64))
    # Standard error of a deviation of 0.5 from 20,000 draws: 0.5 / sqrt(40,000) = 0.0025.
    assert noisy[:, 1].std().item() == pytest.approx(0.5, abs=0.01)
    assert noisy[:, 1].mean().item() == pytest.approx(1.0, abs=0.015)


def test_switched_off_signals_hand_through_the_very_tensors() -> None:
    signals = Signals(2, 3, 1, dt=0.1)
    actions, observations = th.zeros(2, 1), th.zeros(2, 3)
    assert signals.act(actions) is actions
    assert signals.sense(observations) is observations


def test_the_state_repeats_what_follows() -> None:
    def make() -> Signals:
        return Signals(2, 3, 1, dt=0.1, observation_noise=0.1, action_delay=(0, 2), action_filter=3.0)

    def go_on(signals: Signals) -> list[th.Tensor]:
        seen = []
        for step in range(6):
            seen += [signals.act(th.full((2, 1), float(step))), signals.sense(th.zeros(2, 3))]
            signals.reset(ALL if step == 3 else NONE)
        return seen

    first = make()
    first.seed(3)
    first.reset(ALL)
    go_on(first)
    state = first.state_dict()
    expected = go_on(first)
    second = make()
    second.load_state_dict(state)
    assert all(th.equal(a, b) for a, b in zip(expected, go_on(second), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation_noise": -0.1}, "observation_noise is -0.1"),
        ({"observation_noise": [0.1, 0.1]}, "2 deviations and an observation 3 dimensions"),
        ({"observation_noise": "much"}, "standard deviations"),
        ({"action_delay": -1}, "action_delay is -1"),
        ({"action_delay": (2, 1)}, r"action_delay is \(2, 1\)"),
        ({"action_delay": 0.5}, "action_delay is 0.5"),
        ({"action_delay": True}, "action_delay is True"),
        ({"action_filter": 0.0}, "cutoff frequency"),
        ({"action_filter": "5 Hz"}, "cutoff frequency"),
    ],
)
def test_impossible_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Signals(2, 3, 1, dt=0.1, **options)


def test_a_state_of_other_options_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="without action_delay"):
        Signals(2, 3, 1, dt=0.1, action_delay=1).load_state_dict(Signals(2, 3, 1, dt=0.1).state_dict())
