"""The parts of a run on a device, each beside what it stands for: a loop, SB3's buffer, the host's controller."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make_model
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.utils import explained_variance
from toy_envs import PointMass

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.buffers import with_rows
from sb3_ppo_plus.controllers import KLBand
from sb3_ppo_plus.device import cuda_graph, passes
from sb3_ppo_plus.device.acting import DeviceActor
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.choice import lives_on_accelerator, same_device
from sb3_ppo_plus.device.cuda_graph import Captured
from sb3_ppo_plus.device.episodes import SUCCESS, EpisodeRows
from sb3_ppo_plus.device.options import DeviceOptions, read_options
from sb3_ppo_plus.device.passes import GraphedStep
from sb3_ppo_plus.device.precision import autocast
from sb3_ppo_plus.device.rollout import add_final_values
from sb3_ppo_plus.device.scan import discounted_sums, sums_by_halves, sums_by_step
from sb3_ppo_plus.device.steering import next_rate
from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.graphs import FIGURES
from sb3_ppo_plus.types import Minibatch

# ------------------------------------------------ options


def test_options_have_defaults_and_take_each_value() -> None:
    assert read_options(None) == read_options({}) == DeviceOptions("auto", True, None, None)
    given = {"rollout": True, "cuda_graphs": False, "matmul_precision": "high", "autocast": "bfloat16"}
    assert read_options(given)._asdict() == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("high", r"device_options='high' must be a mapping"),
        ({"rolout": True}, r"unknown entry 'rolout' \(did you mean 'rollout'\?\); valid: rollout, cuda_graphs"),
        ({"rollout": 1}, r"device_options\['rollout'\]=1 is unknown; choose one of 'auto', True, False"),
        ({"matmul_precision": "tf32"}, r"'tf32' is unknown; choose one of None, 'highest', 'high', 'medium'"),
        ({"autocast": "float16"}, r"'float16' is unknown; choose one of None, 'bfloat16'"),
    ],
)
def test_options_that_do_not_exist_are_refused_before_anything_is_made(given: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        PPOPlus("MlpPolicy", "NoSuchEnvironment-v0", device_options=given)


# ------------------------------------------------ sums against time


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 32, 33, 100])
def test_both_ways_to_sum_are_the_recursion(n_steps: int) -> None:
    generator = th.Generator().manual_seed(n_steps)
    terms = th.randn(n_steps, 5, generator=generator, dtype=th.float64)
    decays = 0.99 * (th.rand(n_steps, 5, generator=generator) > 0.1).double()
    expected, later = th.zeros_like(terms), th.zeros(5, dtype=th.float64)
    for t in reversed(range(n_steps)):
        later = terms[t] + decays[t] * later
        expected[t] = later
    before = terms.clone(), decays.clone()
    for way in (sums_by_step, sums_by_halves, discounted_sums):
        th.testing.assert_close(way(terms, decays), expected, rtol=1e-12, atol=1e-12)
    assert th.equal(terms, before[0]) and th.equal(decays, before[1]), "what is given stays as it is"


def test_a_sum_by_hand() -> None:
    # S_2 = 4; S_1 = 2 + 0.5 * 4 = 4; S_0 = 1 + 0 * 4 = 1: the episode ended with the first step.
    terms, decays = th.tensor([[1.0], [2.0], [4.0]]), th.tensor([[0.0], [0.5], [0.5]])
    for way in (sums_by_step, sums_by_halves):
        assert way(terms, decays).flatten().tolist() == [1.0, 4.0, 4.0]


def test_float32_sums_by_halves_stay_as_near_as_the_loop() -> None:
    generator = th.Generator().manual_seed(0)
    terms = th.randn(128, 64, generator=generator)
    decays = 0.99 * 0.95 * (th.rand(128, 64, generator=generator) > 0.01)
    exact = sums_by_step(terms.double(), decays.double())
    errors = [(way(terms, decays) - exact).abs().max() for way in (sums_by_step, sums_by_halves)]
    assert errors[1] < 2e-5 and errors[0] < 2e-5


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 2\] and \[3, 1\]"):
        discounted_sums(th.zeros(3, 2), th.zeros(3, 1))


# ------------------------------------------------ the buffer

BOX = spaces.Box(-1, 1, (3,), np.float32)


def filled(n_steps: int = 6, n_envs: int = 4, action_space: spaces.Space = BOX) -> tuple[DeviceBuffer, RolloutBuffer]:
    """The same rollout in both kinds of buffer."""
    own = DeviceBuffer(n_steps, BOX, action_space, "cpu", gae_lambda=0.9, gamma=0.95, n_envs=n_envs)
    sb3 = with_rows(RolloutBuffer)(n_steps, BOX, action_space, "cpu", gae_lambda=0.9, gamma=0.95, n_envs=n_envs)
    generator = th.Generator().manual_seed(3)
    for t in range(n_steps):
        obs = th.randn(n_envs, 3, generator=generator)
        actions = th.randint(2, (n_envs, sb3.action_dim), generator=generator).float()
        numbers = th.randn(3, n_envs, generator=generator)
        starts = th.rand(n_envs, generator=generator) < 0.3
        named = {"observations": obs, "actions": actions, "episode_starts": starts}
        named |= dict(zip(("rewards", "values", "log_probs"), numbers, strict=True))
        for name, row in named.items():
            own.put(name, t, row)
        own.close(t)
        sb3.add(obs.numpy(), actions.numpy(), numbers[0].numpy(), starts.numpy(), numbers[1], numbers[2])
    last, dones = th.randn(n_envs, generator=generator), th.tensor([True, False, False, True])[:n_envs]
    own.compute_returns_and_advantage(last, dones)
    sb3.compute_returns_and_advantage(last, dones.numpy())
    return own, sb3


def test_it_holds_what_sb3s_buffer_holds() -> None:
    own, sb3 = filled()
    assert own.full and own.pos == sb3.pos == 6
    for name in (
        "observations",
        "actions",
        "rewards",
        "episode_starts",
        "values",
        "log_probs",
        "advantages",
        "returns",
    ):
        np.testing.assert_allclose(getattr(own, name), getattr(sb3, name), rtol=1e-6, atol=1e-6, err_msg=name)
        assert getattr(own, name).dtype == getattr(sb3, name).dtype


def test_its_arrays_are_copies_that_are_made_once_and_cannot_be_written() -> None:
    own, _ = filled()
    assert own.returns is own.returns
    with pytest.raises(ValueError, match="read-only"):
        own.rewards[...] = 0.0
    before = own.rewards
    own.put("rewards", 0, th.full((4,), 7.0))
    own.close(5)
    assert own.rewards[0].tolist() == [7.0] * 4 and before[0].tolist() != [7.0] * 4


def test_a_new_rollout_forgets_the_copies_and_the_cuts() -> None:
    own, _ = filled()
    own.tensors["cut"][1] = True
    first = own.rewards
    own.reset()
    assert not own.full and own.pos == 0 and own.rewards is not first and not own.tensors["cut"].any()


def test_its_minibatches_are_its_rows() -> None:
    own, sb3 = filled()
    rows = np.array([3, 17, 8])
    expected = sb3.observations[rows // 4, rows % 4]
    np.testing.assert_array_equal(own._get_samples(rows).observations, expected)
    together = own._get_samples(np.arange(5, 11))
    np.testing.assert_array_equal(together.observations, sb3.observations.reshape(-1, 3)[5:11])
    drawn = th.cat([samples.returns for samples in own.get(7)])
    np.testing.assert_allclose(drawn.sort().values, np.sort(sb3.returns.flatten()), rtol=1e-5, atol=1e-6)


def test_it_explains_variance_as_sb3_does() -> None:
    own, sb3 = filled()
    assert own.explained_variance() == pytest.approx(
        explained_variance(sb3.values.flatten(), sb3.returns.flatten()), rel=1e-5
    )
    own.tensors["returns"].fill_(2.0)
    assert np.isnan(own.explained_variance())


def test_observations_keep_their_type() -> None:
    own = DeviceBuffer(2, spaces.Box(0, 255, (2, 2), np.uint8), BOX, "cpu")
    own.put("observations", 0, th.full((1, 2, 2), 200, dtype=th.uint8))
    assert own.observations.dtype == np.uint8 and own.observations[0].max() == 200


# ------------------------------------------------ episodes


@pytest.mark.parametrize("kept", [1, 3, 5, 100])
def test_the_last_episodes_are_told_in_the_order_in_which_they_ended(kept: int) -> None:
    rng = np.random.default_rng(kept)
    rows = EpisodeRows(9, 4, kept, th.device("cpu"))
    expected: list[list[float]] = []
    for t in range(9):
        done, returns, lengths = rng.random(4) < 0.3, rng.normal(size=4), rng.integers(1, 50, 4)
        success = rng.random(4) < 0.5
        stats = {EPISODE_RETURN: returns, EPISODE_LENGTH: lengths, SUCCESS: success, "speed": returns}
        rows.note(t, {name: th.as_tensor(value) for name, value in stats.items()}, th.as_tensor(done))
        expected += [[returns[i], lengths[i], success[i]] for i in np.flatnonzero(done)]
    told = rows.last().numpy()
    assert len(expected) > 5 and rows.names == [EPISODE_RETURN, EPISODE_LENGTH, SUCCESS]
    count, columns = int(told[0]), told[1:].reshape(3, -1)
    assert count == min(kept, len(expected))
    np.testing.assert_allclose(columns[:, :count].T, expected[-count:])


def test_no_episode_and_no_figures() -> None:
    rows = EpisodeRows(2, 3, 10, th.device("cpu"))
    assert rows.last().tolist() == [0.0] and rows.names == []
    rows.note(0, {EPISODE_RETURN: th.ones(3), EPISODE_LENGTH: th.ones(3)}, th.zeros(3, dtype=th.bool))
    assert rows.last()[0] == 0.0


# ------------------------------------------------ truncations


def test_both_ways_to_ask_about_cut_off_episodes_agree() -> None:
    model = make_model(env=PointMass(4, seed=0))
    rewards = []
    for looks in (True, False):
        buffer, _ = filled()
        buffer = DeviceBuffer(6, model.observation_space, model.action_space, "cpu", gamma=0.5, n_envs=4)
        generator = th.Generator().manual_seed(1)
        for t in range(6):
            buffer.put("final_observations", t, th.randn(4, 2, generator=generator))
        buffer.tensors["cut"].copy_(th.rand(6, 4, generator=generator) < 0.3)
        buffer.tensors["final_observations"][~buffer.tensors["cut"]] = th.nan  # nobody's business
        add_final_values(buffer, DeviceActor(model.policy, DeviceOptions()), looks)
        rewards.append(buffer.tensors["rewards"])
    th.testing.assert_close(rewards[0], rewards[1])
    assert (rewards[0] != 0).equal(buffer.tensors["cut"])


# ------------------------------------------------ steering


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("factor_down", [None, 3.0])
def test_a_rate_on_the_device_moves_as_the_controller_moves_it(inverse: bool, factor_down: float | None) -> None:
    rule = KLBand(0.01, 2.0, 1.5, factor_down, 1e-5, 1e-2, "minibatch", inverse)
    rule.start_at(1e-3)
    rate = th.tensor(1e-3)
    for kl in [0.005, 0.0051, 0.02, 0.021, 1.0, 1e-9, float("nan"), float("inf"), *[1e-6] * 9, *[1.0] * 20]:
        rate = next_rate(rate, th.tensor(kl), rule)
        assert rate.item() == pytest.approx(rule.update(kl), rel=1e-5), kl


# ------------------------------------------------ graphs, with a stand-in for the recording


class Recording:
    """Stands for a CUDA graph: launching it calls the function again and puts what it gives in the same place."""

    def __init__(self) -> None:
        self.recorded = self.launched = 0

    def capture(self, call: Callable[[], Any], warm_up: Callable[[], Any], device: th.device) -> Any:
        self.recorded += 1
        warm_up()
        given = call()

        def replay() -> None:
            self.launched += 1
            again = call()
            if given is not None:
                for place, value in zip(given, again, strict=True):
                    place.copy_(value)

        return replay, given


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    stand_in = Recording()
    for module in (cuda_graph, passes):
        monkeypatch.setattr(module, "capture", stand_in.capture)
        monkeypatch.setattr(module, "can_capture", lambda device: True)
    return stand_in


def test_a_captured_function_gives_what_the_function_gives(recording: Recording) -> None:
    captured = Captured(lambda x, y: (x + y, x * y), th.device("cpu"), True, "adding")
    places = set()
    for value in (1.0, 2.0, 3.0):
        total, product = captured(th.tensor([value]), th.tensor([2.0]))
        assert (total.item(), product.item()) == (value + 2.0, value * 2.0)
        places.add(total.data_ptr())
    assert recording.recorded == 1 and recording.launched == 3 and len(places) == 1


def test_nothing_is_recorded_where_it_is_not_wanted_or_not_possible(recording: Recording) -> None:
    captured = Captured(lambda x: x + 1, th.device("cpu"), False, "adding")
    assert captured(th.ones(1)).item() == 2.0 and recording.recorded == 0


def test_there_are_no_graphs_on_the_processor() -> None:
    captured = Captured(lambda x: x + 1, th.device("cpu"), True, "adding")
    assert not captured.wanted and captured(th.ones(1)).item() == 2.0


def test_a_recording_that_fails_is_told_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(cuda_graph, "can_capture", lambda device: True)
    monkeypatch.setattr(cuda_graph, "capture", refuse)
    captured = Captured(lambda x: x + 1, th.device("cpu"), True, "acting")
    with caplog.at_level(logging.WARNING):
        assert [captured(th.ones(1)).item() for _ in range(3)] == [2.0] * 3
    (record,) = caplog.records
    assert (
        "acting is not a CUDA graph (RuntimeError: operation not permitted when stream is capturing)" in record.message
    )


def batch_of(value: float) -> Minibatch:
    column = th.full((2,), value)
    return Minibatch(column[:, None], column, column, column, column, column)


def test_a_graphed_step_changes_what_the_step_changes(recording: Recording) -> None:
    def step(parameters: Any, m: Any, v: Any, gradient: Any, numbers: Any, batch: Minibatch, figures: Any) -> None:
        parameters += numbers[0] * batch.returns.sum()
        state.add_(1.0)
        figures[0] = parameters.sum()

    plain, graphed = [tuple(th.zeros(3) for _ in range(4)) for _ in range(2)]
    counts = []
    for vectors in (plain, graphed):
        state = th.zeros(1)
        take: Any = step if vectors is plain else GraphedStep(step, vectors, state, th.device("cpu"))
        lines = [th.zeros(len(FIGURES)) for _ in range(4)]
        for value, line in enumerate(lines):
            if value == 2:  # somebody only tries: nothing of it may stay
                before = state.clone()
                take(*(vector.clone() for vector in vectors), th.ones(1), batch_of(100.0), th.zeros(len(FIGURES)))
                state.copy_(before)
            take(*vectors, th.tensor([0.5]), batch_of(float(value)), line)
        counts.append((vectors[0].tolist(), [line[0].item() for line in lines], state.item()))
    # Recording itself is a call of the stand-in, which a graph's is not: the first value is 0, and the state one more.
    assert counts[0][0] == counts[1][0] and counts[0][1] == counts[1][1]
    assert recording.recorded == 1 and recording.launched == 4


class Undone(Recording):
    """A recording that executes nothing, as a real one: what its calls changed is put back."""

    def capture(self, call: Callable[[], Any], warm_up: Callable[[], Any], device: th.device) -> Any:
        draws = th.get_rng_state()
        warm_up()  # which has to leave everything else as it was by itself
        before = [tensor.clone() for tensor in self.changed]
        recorded = super().capture(call, lambda: None, device)
        th.set_rng_state(draws)
        for tensor, value in zip(self.changed, before, strict=True):
            tensor.copy_(value)
        return recorded

    changed: tuple[th.Tensor, ...] = ()


def train_steered(**options: Any) -> PPOPlus:
    controllers = {"learning_rate": {"type": "kl_band", "target": 1e-3, "every": "minibatch"}}
    steered = {"controllers": controllers, "target_kl": 0.05, "n_steps": 32}
    return make_model(env=PointMass(4, seed=0), device_options={"rollout": True, **options}, **steered).learn(
        3 * 4 * 32
    )


def test_a_training_on_graphs_is_the_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies in and out, places that stay, the state that is put back: all but the graphs themselves."""
    stand_in, record = Undone(), GraphedStep._record

    def watched(self: GraphedStep, *args: Any) -> bool:
        stand_in.changed = (*self.vectors, self.state)
        return record(self, *args)

    for module in (cuda_graph, passes):
        monkeypatch.setattr(module, "capture", stand_in.capture)
        monkeypatch.setattr(module, "can_capture", lambda device: True)
    monkeypatch.setattr(GraphedStep, "_record", watched)
    without, graphed = train_steered(cuda_graphs=False), train_steered()
    assert stand_in.recorded == 2 and stand_in.launched > 3 * 32 + 3 * 4
    for name, tensor in without.policy.state_dict().items():
        th.testing.assert_close(graphed.policy.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    assert graphed._controllers["learning_rate"].value == pytest.approx(without._controllers["learning_rate"].value)


# ------------------------------------------------ precision


def test_what_leaves_networks_in_bfloat16_is_float32() -> None:
    policy = make_model(env=PointMass(2)).policy
    obs = th.zeros(5, 2)
    seen: list[th.dtype] = []
    policy.mlp_extractor.policy_net.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with autocast(policy, "bfloat16"):
        assert policy.get_distribution(obs).distribution.mean.dtype == policy.predict_values(obs).dtype == th.float32
    assert seen == [th.bfloat16]
    policy.get_distribution(obs)
    assert seen[-1] == th.float32 and not policy.action_net._forward_hooks


def test_a_gradient_step_is_seen_by_the_next_pass_in_bfloat16() -> None:
    policy = make_model(env=PointMass(2)).policy
    obs = th.ones(5, 2)
    with autocast(policy, "bfloat16"):
        before = policy.predict_values(obs)
        with th.no_grad():
            policy.value_net.bias.add_(1.0)
        th.testing.assert_close(policy.predict_values(obs), before + 1.0, rtol=0.02, atol=0.02)


# ------------------------------------------------ devices and SB3's advice


def test_devices_are_compared_by_kind_and_number() -> None:
    assert same_device(th.device("cpu"), th.device("cpu")) and not same_device(th.device("cpu"), th.device("meta"))
    assert same_device(th.device("meta", 0), th.device("meta")) and not same_device(
        th.device("meta", 0), th.device("meta", 1)
    )


def test_sb3s_advice_stays_away_only_where_environments_live_with_the_policy() -> None:
    model = make_model(env=PointMass(2))
    assert not lives_on_accelerator(model.env, th.device("cpu"))
    model.device = th.device("meta")
    with pytest.warns(UserWarning, match="primarily intended to run on the CPU"):
        model._maybe_recommend_cpu()
    model.env.device = th.device("meta")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model._maybe_recommend_cpu()
