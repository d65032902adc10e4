"""What the tests in :mod:`~sb3_ppo_plus.envs.contract` share: hooks, trajectories, exact comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.types import Observations, TensorStep

# Copies on the host of all that a reset or a step gave, by name: "rewards", "obs['position']", "stats['effort']".
Record = dict[str, th.Tensor]


class ContractHooks:
    """
    What an environment says about itself to be tested. Override :meth:`make_env`; the rest has defaults.

    Episodes have to be short, so that all of what happens at their end is seen: within ``n_steps`` at least one ends.
    """

    #: environments in a batch; at least 2, so that one can disturb another
    n_envs: int = 3
    #: steps that each test takes, typically 20 to 100; more sees more ends of episodes and takes longer
    n_steps: int = 40
    #: seed of environment 0
    seed: int = 7
    #: where the tensors have to be; None accepts what the environment says of itself
    device: th.device | str | None = None
    #: True for an environment that draws nothing: each episode starts alike and goes as its actions say
    deterministic_reset: bool = False
    #: False where environments share a source of random numbers, so that what one draws depends on how many there are
    independent_envs: bool = True
    #: True where observations or rewards are scaled with statistics that the environments share and a reset keeps, as a
    #: normalizing wrapper does; seeds then do not determine all of a trajectory, nor do rewards sum up to the return
    running_statistics: bool = False
    #: largest difference between numbers that have to be equal; above 0 only for accelerators that sum in any order
    tolerance: float = 0.0

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        """
        Make the environment to test; override this.

        :param n_envs: N, number of environments
        :param seed: seed of environment 0, as ``seed()`` takes it
        :return: a new environment, not reset yet
        :raises TypeError: when it is not overridden
        """
        raise TypeError(
            f"{type(self).__name__} does not say which environment to test: override make_env(self, n_envs, seed)"
        )

    def sample_actions(self, env: TensorVecEnv, rng: np.random.Generator) -> th.Tensor:
        """
        Draw one action per environment; override it where random actions do not bring episodes to their end.

        :param env: the environment
        :param rng: generator of this test; the same draws have to give the same actions
        :return: actions on the environment's device [N, A]; [N] for Discrete
        """
        space = batch_space(env.action_space, env.num_envs)
        space.seed(int(rng.integers(2**31)))
        return th.as_tensor(space.sample(), device=env.device)

    @contextmanager
    def _env(self, n_envs: int | None = None, seed: int | None = None) -> Iterator[TensorVecEnv]:
        env = self.make_env(self.n_envs if n_envs is None else n_envs, self.seed if seed is None else seed)
        try:
            yield env
        finally:
            env.close()

    def _actions(self, env: TensorVecEnv) -> list[th.Tensor]:
        rng = np.random.default_rng(self.seed)
        return [self.sample_actions(env, rng) for _ in range(self.n_steps)]

    def _trajectory(self, env: TensorVecEnv, actions: Iterable[th.Tensor] | None = None) -> list[Record]:
        """Reset, then one record per action; random actions unless given."""
        return [begin(env), *take(env, self._actions(env) if actions is None else actions)]

    def _warm_up(self, env: TensorVecEnv) -> list[th.Tensor]:
        """Bring an environment to the middle of its episodes, and give actions to go on with."""
        actions = self._actions(env)
        begin(env)
        take(env, actions[: self.n_steps // 4])
        return actions

    def _assert_same(self, expected: Sequence[Record], actual: Sequence[Record], what: str) -> None:
        found = difference(expected, actual, self.tolerance)
        assert found is None, f"{what}: {found}"

    def _skip_without_draws(self) -> None:
        if self.deterministic_reset:
            raise SkipTest("the environment draws nothing")

    def _skip_with_statistics(self) -> None:
        if self.running_statistics:
            raise SkipTest("statistics that outlive a reset are part of the trajectory")


# ------------------------------------------------ trajectories


def begin(env: TensorVecEnv) -> Record:
    """
    :param env: environment to reset
    :return: copies of its first observations and of the figures beside them
    """
    obs = env.reset_tensors()
    return {
        name: _copy(value) for name, value in {**_named("obs", obs), **_named("reset_stats", env.reset_stats)}.items()
    }


def take(env: TensorVecEnv, actions: Iterable[th.Tensor]) -> list[Record]:
    """
    :param env: environment to step
    :param actions: for each step [N, A]
    :return: copies of what each step gave
    """
    return [_record(env.step_tensors(row.clone())) for row in actions]


def done(record: Record) -> th.Tensor:
    """
    :param record: of a step
    :return: where an episode ended [N]
    """
    return record["terminated"] | record["truncated"]


def observation_names(record: Record) -> list[str]:
    """
    :param record: of a reset or a step
    :return: names of its observations; ``final_`` before them gives those before the reset
    """
    return [name for name in record if name.startswith("obs")]


def stat(name: str) -> str:
    """
    :param name: a key of ``TensorStep.stats``
    :return: its name in a record
    """
    return f"stats[{name!r}]"


def host_array(actions: th.Tensor) -> np.ndarray:
    """
    :param actions: actions on any device [N, A]
    :return: a copy for the NumPy face
    """
    return actions.cpu().numpy().copy()


def _record(step: TensorStep) -> Record:
    parts = step._asdict().items()
    return {key: _copy(value) for name, part in parts for key, value in _named(name, part).items()}


def _named(name: str, value: Observations | Mapping[str, th.Tensor]) -> dict[str, th.Tensor]:
    return {f"{name}[{key!r}]": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}


def _copy(value: th.Tensor) -> th.Tensor:
    return value.detach().cpu().clone()


# ------------------------------------------------ comparison


def equal(first: th.Tensor, second: th.Tensor, tolerance: float = 0.0) -> bool:
    """
    :param first: a tensor on the host
    :param second: another
    :param tolerance: largest difference; 0 for the same bits, so that NaN equals NaN
    :return: whether they are of the same shape and dtype and hold the same numbers
    """
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if tolerance and first.is_floating_point():
        return th.allclose(first, second, rtol=0.0, atol=tolerance, equal_nan=True)
    return first.contiguous().numpy().tobytes() == second.contiguous().numpy().tobytes()


def difference(expected: Sequence[Record], actual: Sequence[Record], tolerance: float = 0.0) -> str | None:
    """
    Say where two trajectories part, None where they are the same.

    :param expected: a trajectory
    :param actual: another of the same length
    :param tolerance: largest difference between equal numbers
    :return: the first difference in words
    """
    for position, (first, second) in enumerate(zip(expected, actual, strict=True)):
        if first.keys() != second.keys():
            return f"record {position} has {sorted(first)} in one and {sorted(second)} in the other"
        for name in first:
            if not equal(first[name], second[name], tolerance):
                return f"{name} of record {position} is {first[name]} in one and {second[name]} in the other"
    return None


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """
    Walk through mappings, lists and tuples.

    :param value: what to walk through
    :param path: what to call it
    :return: path and value of all that is none of these
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(part, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}[{index}]")
    else:
        yield path, value


def assert_unchanged(before: Sequence[tuple[str, Any]], after: Iterable[tuple[str, Any]], when: str) -> None:
    """
    :param before: copied leaves
    :param after: the leaves now
    :param when: what happened between, for the message
    """
    now = dict(after)
    assert len(now) == len(before), f"there are {len(now)} values {when}, and not {len(before)}"
    for path, value in before:
        other = now[path]
        if isinstance(value, np.ndarray | th.Tensor):
            same = equal(_copy(th.as_tensor(value)), _copy(th.as_tensor(other)))
        else:
            same = value == other or value != value
        assert same, f"{path} was changed {when}: {value} became {other}"


def assert_arrays(expected: Observations, given: Any, what: str) -> None:
    """
    :param expected: a tensor, or a mapping of tensors
    :param given: the same as arrays
    :param what: what to call it
    """
    tensors, arrays = _named(what, expected), _named(what, given)
    assert tensors.keys() == arrays.keys(), f"{sorted(arrays)} in place of {sorted(tensors)}"
    for name, tensor in tensors.items():
        array = np.asarray(arrays[name])
        assert isinstance(arrays[name], np.ndarray | np.generic), f"{name} is a {type(arrays[name]).__name__}, no array"
        same = equal(_copy(tensor), th.from_numpy(array.copy()))
        assert same, f"{name} is {array} on the NumPy face and {tensor} on the tensor face"


def assert_raises(errors: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Any], what: str) -> None:
    """
    :param errors: what is fine to raise
    :param call: what has to raise it
    :param what: what to call it
    """
    try:
        call()
    except errors:
        return
    raise AssertionError(f"{what} is accepted without an error")


# ------------------------------------------------ shapes and types


def assert_tensor(env: TensorVecEnv, value: Any, shape: Sequence[int], dtype: th.dtype | None, name: str) -> None:
    """
    :param env: the environment, whose device counts
    :param value: what it returned
    :param shape: shape that is asked for
    :param dtype: dtype that is asked for, None for any
    :param name: what to call it
    """
    assert isinstance(value, th.Tensor), f"{name} is a {type(value).__name__}, not a tensor"
    assert value.shape == tuple(shape), f"{name} has shape {tuple(value.shape)}, not {tuple(shape)}"
    assert dtype in (None, value.dtype), f"{name} is {value.dtype}, not {dtype}"
    same = value.device.type == env.device.type and env.device.index in (None, value.device.index)
    assert same, f"{name} is on {value.device} and the environment on {env.device}"


def assert_columns(env: TensorVecEnv, stats: Mapping[str, th.Tensor], name: str) -> None:
    """
    :param env: the environment
    :param stats: figures by name, each with one row per environment [N, ...]
    :param name: what to call them
    """
    for key, value in stats.items():
        assert isinstance(value, th.Tensor) and value.ndim, f"{name}[{key!r}] is {value!r}, not a tensor with N rows"
        assert_tensor(env, value, (env.num_envs, *value.shape[1:]), None, f"{name}[{key!r}]")


def assert_observations(env: TensorVecEnv, observations: Any, name: str) -> None:
    """
    :param env: the environment
    :param observations: what it returned
    :param name: what to call it
    """
    space = env.observation_space
    if isinstance(space, spaces.Dict):
        assert isinstance(observations, Mapping), f"{name} is a {type(observations).__name__}, the space is a Dict"
        assert set(observations) == set(space), f"{name} has keys {sorted(observations)}, the space {sorted(space)}"
    parts = space.items() if isinstance(space, spaces.Dict) else [(None, space)]
    for key, part in parts:
        value, label = (observations, name) if key is None else (observations[key], f"{name}[{key!r}]")
        dtype = th.from_numpy(np.empty(0, part.dtype)).dtype
        # A space of float64 contains float32, which accelerators and SB3's VecNormalize give in its place.
        if dtype == th.float64 and getattr(value, "dtype", None) == th.float32:
            dtype = th.float32
        assert_tensor(env, value, (env.num_envs, *(part.shape or ())), dtype, label)


def observation_rows(observations: Any, n_envs: int) -> list[Any]:
    """
    :param observations: of the NumPy face [N, O], or a mapping of such arrays
    :param n_envs: N
    :return: one observation per environment
    """
    if isinstance(observations, Mapping):
        return [{key: value[index] for key, value in observations.items()} for index in range(n_envs)]
    return [observations[index] for index in range(n_envs)]
