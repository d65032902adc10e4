"""Running moments: the numbers of SB3's RunningMeanStd, on arrays and on tensors."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.normalization import RunningMoments, batch_moments, merge_moments


def batches(shape: tuple[int, ...], n: int, dtype: Any = np.float64, count: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = [rng.normal(3.0, 50.0, (n, *shape)) for _ in range(count)]
    return [(np.abs(values) % 256 if dtype is np.uint8 else values).astype(dtype) for values in drawn]


def on_tensors(shape: tuple[int, ...] = ()) -> RunningMoments:
    """Moments that run on the processor as they do on any other device."""
    moments = RunningMoments(shape)
    state = moments.state_dict()
    moments._on_host = False
    moments.load_state_dict(state)
    return moments


def assert_equal(moments: RunningMoments, expected: RunningMeanStd) -> None:
    assert np.array_equal(moments.mean.numpy(), expected.mean)
    assert np.array_equal(moments.var.numpy(), expected.var)
    assert float(moments.count) == expected.count


# 200 rows reach beyond the 128 that NumPy sums without halving.
@pytest.mark.parametrize("n", [1, 4, 9, 200])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(), (1,), (17,), (2, 3, 4)])
def test_statistics_equal_those_of_sb3_bit_for_bit(shape: tuple[int, ...], dtype: Any, n: int) -> None:
    moments, expected = RunningMoments(shape), RunningMeanStd(shape=shape)
    for values in batches(shape, n, dtype):
        moments.update(th.from_numpy(values))
        expected.update(values)
    assert_equal(moments, expected)


def test_the_layout_in_memory_does_not_matter() -> None:
    straight, transposed = RunningMoments((200,)), RunningMoments((200,))
    for values in batches((200,), 30):
        straight.update(th.from_numpy(values))
        transposed.update(th.from_numpy(np.asfortranarray(values)))
    assert th.equal(straight.mean, transposed.mean)
    assert th.equal(straight.var, transposed.var)


@pytest.mark.parametrize("shape", [(), (17,)])
@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_tensors_agree_with_sb3_to_rounding(shape: tuple[int, ...], dtype: Any) -> None:
    moments, expected = on_tensors(shape), RunningMeanStd(shape=shape)
    for values in batches(shape, 64, dtype, count=200):
        moments.update(th.from_numpy(values))
        expected.update(values)
    np.testing.assert_allclose(moments.mean.numpy(), expected.mean, rtol=1e-12)
    np.testing.assert_allclose(moments.var.numpy(), expected.var, rtol=1e-12)
    assert float(moments.count) == expected.count


def test_tensors_keep_float64_where_the_values_are_float32() -> None:
    moments = on_tensors()
    values = th.tensor([0.1, 0.2, 0.7])
    moments.update(values)
    assert float(moments.mean) == pytest.approx(float(values.double().mean()) * 3 / 3.0001, rel=1e-14)


@pytest.mark.parametrize("dtype", [th.bfloat16, th.float16, th.int64, th.bool])
def test_values_of_any_other_type_are_averaged_in_float64(dtype: th.dtype) -> None:
    moments, expected = RunningMoments((2,)), RunningMoments((2,))
    values = (th.arange(400).view(200, 2) / 7).to(dtype)
    moments.update(values)
    expected.update(values.double())
    assert th.equal(moments.mean, expected.mean) and th.equal(moments.var, expected.var)
    assert th.equal(moments.normalize(values), expected.normalize(values.double()))


def test_moments_of_a_batch_by_hand() -> None:
    # mean (1 + 3) / 2 = 2, var ((1 - 2)^2 + (3 - 2)^2) / 2 = 1
    mean, var = batch_moments(th.tensor([[1.0], [3.0]]))
    assert (mean.tolist(), var.tolist()) == ([2.0], [1.0])


def test_merged_moments_by_hand() -> None:
    # {1, 3} has mean 2, var 1; {5, 7, 9} has mean 7, var 8/3. Together: mean 25/5 = 5, var (16+4+0+4+16)/5 = 8.
    mean, var, count = merge_moments(np.array(2.0), np.array(1.0), 2.0, np.array(7.0), np.array(8.0 / 3.0), 3.0)
    assert (mean, var, count) == (5.0, pytest.approx(8.0), 5.0)


def test_updates_are_those_of_all_values_at_once() -> None:
    moments = RunningMoments((3,), count=0.0)
    values = batches((3,), 10)
    for batch in values:
        moments.update(th.from_numpy(batch))
    np.testing.assert_allclose(moments.mean.numpy(), np.concatenate(values).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.var.numpy(), np.concatenate(values).var(axis=0), rtol=1e-12)
    assert float(moments.count) == 200.0


@pytest.mark.parametrize("make", [RunningMoments, on_tensors])
def test_combine_is_that_of_sb3_and_leaves_the_other_alone(make: Any) -> None:
    ours, theirs = (make((3,)), make((3,))), (RunningMeanStd(shape=(3,)), RunningMeanStd(shape=(3,)))
    for number, values in enumerate(batches((3,), 6)):
        ours[number % 2].update(th.from_numpy(values))
        theirs[number % 2].update(values)
    other = ours[1].state_dict()
    ours[0].combine(ours[1])
    theirs[0].combine(theirs[1])
    np.testing.assert_allclose(ours[0].mean.numpy(), theirs[0].mean, rtol=1e-12)
    np.testing.assert_allclose(ours[0].var.numpy(), theirs[0].var, rtol=1e-12)
    assert all(th.equal(other[name], value) for name, value in ours[1].state_dict().items())


def test_moments_of_another_shape_are_not_combined() -> None:
    with pytest.raises(InvalidArgument, match=r"shape \(2,\).*shape \(3,\)"):
        RunningMoments((3,)).combine(RunningMoments((2,)))


@pytest.mark.parametrize("make", [RunningMoments, on_tensors])
def test_normalize_by_hand(make: Any) -> None:
    moments = make((2,))
    moments.load_state_dict({"mean": [1.0, -1.0], "var": [4.0, 0.25], "count": 10.0})
    # (5 - 1) / 2 = 2 and (-2 + 1) / 0.5 = -2; 100 / 2 and beyond are clipped
    result = moments.normalize(th.tensor([[5.0, -2.0], [101.0, -101.0]]), epsilon=0.0, clip=10.0)
    assert result.dtype == th.float32
    assert result.tolist() == [[2.0, -2.0], [10.0, -10.0]]
    assert moments.normalize(th.tensor([5.0, -2.0]), epsilon=0.0).tolist() == [2.0, -2.0]


@pytest.mark.parametrize("make", [RunningMoments, on_tensors])
def test_rescale_keeps_the_mean(make: Any) -> None:
    moments = make(())
    moments.load_state_dict({"mean": 7.0, "var": 4.0, "count": 10.0})
    result = moments.rescale(th.tensor([1.0, -3.0, 500.0]), epsilon=0.0, clip=10.0)
    assert result.dtype == th.float32
    assert result.tolist() == [0.5, -1.5, 10.0]


@pytest.mark.parametrize("make", [RunningMoments, on_tensors])
def test_another_epsilon_and_later_updates_are_seen(make: Any) -> None:
    moments = make(())
    moments.load_state_dict({"mean": 0.0, "var": 4.0, "count": 1.0})
    one = th.ones(2)
    assert moments.rescale(one, epsilon=0.0).tolist() == [0.5, 0.5]
    assert moments.rescale(one, epsilon=12.0).tolist() == [0.25, 0.25]
    # one value of mean 0, var 4 and the two of {0, 8}: var (4 * 1 + 16 * 2 + 4^2 * 1 * 2 / 3) / 3 = 140 / 9
    moments.update(th.tensor([0.0, 8.0]))
    assert moments.rescale(one, epsilon=12.0).tolist() == pytest.approx([(140 / 9 + 12) ** -0.5] * 2)


def test_nan_stays_visible() -> None:
    assert bool(RunningMoments().normalize(th.tensor([float("nan")])).isnan())


def test_reading_moves_nothing_and_gives_copies() -> None:
    moments = RunningMoments((2,))
    moments.update(th.tensor([[1.0, 2.0], [3.0, 5.0]]))
    before = moments.state_dict()
    values = th.tensor([[9.0, 9.0]])
    moments.normalize(values)
    moments.rescale(values)
    for given in (moments.mean, moments.var, moments.count, *moments.state_dict().values()):
        given += 100.0
    assert all(th.equal(before[name], value) for name, value in moments.state_dict().items())
    assert values.tolist() == [[9.0, 9.0]]


def test_a_state_goes_through_a_file() -> None:
    moments, other = RunningMoments((2,)), RunningMoments((2,))
    moments.update(th.tensor([[1.0, 2.0], [3.0, 5.0]]))
    file = io.BytesIO()
    th.save(moments.state_dict(), file)
    file.seek(0)
    other.load_state_dict(th.load(file, weights_only=True))
    moments.update(th.tensor([[0.0, 1.0]]))
    other.update(th.tensor([[0.0, 1.0]]))
    assert all(th.equal(value, other.state_dict()[name]) for name, value in moments.state_dict().items())


def test_a_loaded_state_is_a_copy() -> None:
    state = {"mean": th.zeros(2, dtype=th.float64), "var": np.ones(2), "count": 1.0}
    moments = RunningMoments((2,))
    moments.load_state_dict(state)
    state["mean"] += 5.0
    state["var"] += 5.0
    assert moments.mean.tolist() == [0.0, 0.0] and moments.var.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "state, message",
    [
        ({"mean": [0.0] * 3, "var": [1.0] * 3, "count": 1.0}, r"mean has shape \(3,\) and has to have shape \(2,\)"),
        ({"mean": [0.0] * 2, "var": [1.0] * 2, "count": [1.0]}, r"count has shape \(1,\)"),
        ({"mean": [0.0] * 2, "count": 1.0}, "no 'var'"),
    ],
)
def test_a_state_of_something_else_is_refused(state: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        RunningMoments((2,)).load_state_dict(state)


def test_moving_makes_a_copy() -> None:
    moments = RunningMoments((2,))
    moments.update(th.ones(3, 2))
    moved = moments.to("cpu")
    moments.update(th.full((3, 2), 5.0))
    assert float(moved.count) == pytest.approx(3.0001)
    assert moments.to("meta").mean.device.type == "meta"


def test_nothing_waits_for_the_device() -> None:
    # A tensor on the meta device has no value, so whoever asks for one gets an error.
    moments, other, values = (RunningMoments((2,), "meta"), RunningMoments((2,), "meta"), th.zeros(3, 2, device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(values.sum() > 0)
    moments.update(values)
    moments.combine(other)
    assert moments.normalize(values).shape == moments.rescale(values).shape == (3, 2)
