"""Environments in JAX, one at a time and without a state of their own: Brax, MuJoCo Playground, MJX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.adapters.base import AdapterVecEnv, Answer
from sb3_ppo_plus.envs.arrays import map_observations
from sb3_ppo_plus.errors import InvalidArgument

# Keys of ``state.info`` with which Brax and Playground say that an episode was cut off.
_TRUNCATION = ("truncation", "time_out")


class JaxAdapter(AdapterVecEnv):
    """
    N copies of an environment with ``reset(key) -> state`` and ``step(state, action) -> state`` on the tensor face.

    Its state is any pytree with ``obs``, ``reward`` and ``done``, as Brax and MuJoCo Playground have it. The two
    functions are vectorized (``vmap``) and compiled (``jit``) here, so give the bare environment, without the wrappers
    of Brax that vectorize, limit or reset. Arrays change hands by DLPack without a copy on the same device.

    An environment that ended begins anew from a key of its own, split from ``PRNGKey(seed + i)``; that is computed only
    in steps where any ended, and then for all of them. Brax's own way is to return to each environment's first state,
    which costs nothing and shows the policy N beginnings only: ``resets="first"``.

    ``state_dict()`` holds the whole state, so a run goes on exactly.

    :param env: the environment
    :param n_envs: N, number of environments; 8 to 64 on a processor, thousands on an accelerator
    :param seed: seed of the first environment, the others count up; None for a different run each time
    :param max_episode_steps: steps after which an episode is cut off, -1 for never
    :param resets: ``new`` for a new beginning each time, ``first`` for the one of the last ``reset()``
    :param device: where the tensors live; JAX computes where it wants to, by its own settings
    :param action_space: actions of one environment; None for a Box of [-1, 1] with ``env.action_size`` numbers, which
        is what Brax and Playground take
    :param rescale_actions: whether the policy acts in [-1, 1], stretched to the bounds of ``action_space``
    :raises ImportError: when JAX is not installed
    :raises InvalidArgument: for anything that cannot work
    """

    def __init__(
        self,
        env: Any,
        n_envs: int = 1,
        seed: int | None = None,
        max_episode_steps: int = 1000,
        resets: str = "new",
        device: th.device | str = "cpu",
        action_space: spaces.Space | None = None,
        rescale_actions: bool = False,
    ) -> None:
        if resets not in ("new", "first"):
            raise InvalidArgument(f"resets={resets!r}; there is new and first")
        limit: Any = max_episode_steps
        if not isinstance(limit, Integral) or (limit < 1 and limit != -1):
            raise InvalidArgument(f"max_episode_steps={max_episode_steps!r}; give a whole number, -1 for never")
        self._jax = jax = _import_jax()
        self.env, self.max_episode_steps, self.resets = env, int(max_episode_steps), resets
        self._reset, self._step = jax.jit(jax.vmap(env.reset)), jax.jit(_make_step(jax, env, resets == "new"))
        shapes = jax.eval_shape(env.reset, jax.random.PRNGKey(0))
        if action_space is None:
            action_space = spaces.Box(-1.0, 1.0, (int(env.action_size),), np.float32)
        super().__init__(n_envs, _space_of(shapes.obs), action_space, device, rescale_actions)
        #: state of all environments as JAX has it, for reading; replaced at each step
        self.state: Any = None
        self._first: Any = None
        self._keys: Any = None
        if seed is not None:
            self.seed(seed)

    def begin(self, seeds: Sequence[int | None], options: Mapping[str, Any] | None) -> Any:
        """See :meth:`AdapterVecEnv.begin`."""
        if options:
            raise InvalidArgument(f"options={dict(options)!r}: JAX environments have none")
        jax, old = self._jax, self._keys
        drawn = np.random.SeedSequence().generate_state(self.num_envs).tolist()
        keys = [
            old[i] if seed is None and old is not None else jax.random.PRNGKey(drawn[i] if seed is None else int(seed))
            for i, seed in enumerate(seeds)
        ]
        self._keys, begin = _split(jax, jax.numpy.stack(keys))
        self.state = self._first = self._reset(begin)
        return self._shared(self.state.obs)

    def advance(self, actions: th.Tensor) -> Answer:
        """See :meth:`AdapterVecEnv.advance`."""
        # A copy: JAX computes later, and the caller may overwrite its tensor by then.
        given = self._jax.numpy.from_dlpack(actions.contiguous().clone())
        lengths = self._jax.numpy.from_dlpack(self._lengths.to(th.int32) + 1)
        limit = self.max_episode_steps if self.max_episode_steps > 0 else np.iinfo(np.int32).max
        answer = self._step(self.state, self._first, self._keys, given, lengths, limit)
        self.state, self._keys, final_obs, reward, terminated, truncated = answer
        obs = self._shared(self.state.obs)
        return Answer(
            obs, self._share(reward), self._share(terminated), self._share(truncated), self._shared(final_obs)
        )

    def _share(self, array: Any) -> th.Tensor:
        return th.from_dlpack(array).to(self.device)

    def _shared(self, observations: Any) -> Any:
        return map_observations(self._share, observations)

    # ------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """
        :return: all arrays of the state, keys and clocks
        """
        trees = (self.state, self._first if self.resets == "first" else None, self._keys)
        leaves = [_to_torch(self._jax, leaf) for leaf in self._jax.tree_util.tree_leaves(trees)]
        return {
            "env": type(self.env).__name__,
            "n_envs": self.num_envs,
            "leaves": leaves,
            "lengths": self._lengths.clone(),
            "returns": self._returns.clone(),
            "seeds": [None if seed is None else int(seed) for seed in self._seeds],
            "began": self._began,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        :raises InvalidArgument: when environment, number of environments or way of resetting differ
        """
        kind = (state.get("env"), state.get("n_envs"))
        if kind != (type(self.env).__name__, self.num_envs):
            raise InvalidArgument(
                f"the state is of {kind[1]} environments {kind[0]} and these are {self.num_envs} "
                f"{type(self.env).__name__}; make the adapter with the same arguments"
            )
        if state["leaves"]:
            self._load_leaves(state["leaves"])
        else:
            self.state = self._first = self._keys = None
        self._lengths, self._returns = (
            state["lengths"].to(self.device).clone(),
            state["returns"].to(self.device).clone(),
        )
        self._seeds = list(state["seeds"])
        self._began = bool(state["began"])

    def _load_leaves(self, given: Sequence[th.Tensor]) -> None:
        jax = self._jax
        keys = jax.numpy.stack([jax.random.PRNGKey(0)] * self.num_envs)
        state = jax.eval_shape(self._reset, keys)
        likeness = (state, state if self.resets == "first" else None, jax.eval_shape(lambda: keys))
        shapes, tree = jax.tree_util.tree_flatten(likeness)
        found = [tuple(leaf.shape) for leaf in shapes]
        # A typed key is one array more to torch than to JAX.
        if len(found) != len(given) or found != list(map(partial(_shape_in_jax, jax), given, shapes)):
            raise InvalidArgument("the state has other arrays than this environment; make both with the same arguments")
        leaves = [_from_torch(jax, leaf, like) for leaf, like in zip(given, shapes, strict=True)]
        self.state, first, self._keys = jax.tree_util.tree_unflatten(tree, leaves)
        self._first = self.state if first is None else first


def _make_step(jax: Any, env: Any, new: bool) -> Callable[..., Any]:
    """One step of all environments as a single function: physics, flags, and the beginning of the next episodes."""
    numpy = jax.numpy
    step_all, reset_all = jax.vmap(env.step), jax.vmap(env.reset)

    def step(state: Any, first: Any, keys: Any, actions: Any, lengths: Any, limit: Any) -> tuple[Any, ...]:
        after = step_all(state, actions)
        ended = after.done.astype(bool)
        given = [after.info[name].astype(bool) for name in _TRUNCATION if name in (getattr(after, "info", None) or {})]
        cut = given[0] if given else numpy.zeros_like(ended)
        terminated, truncated = ended & ~cut, (lengths >= limit) | cut
        done = terminated | truncated

        def choose(fresh: Any, old: Any) -> Any:
            return jax.tree_util.tree_map(lambda a, b: _choose(numpy, done, a, b), fresh, old)

        def renew(old: Any) -> tuple[Any, Any]:
            if not new:
                return choose(first, old), keys
            later, begin = _split(jax, keys)
            return choose(reset_all(begin), old), numpy.where(done[:, None], later, keys)

        renewed, later = jax.lax.cond(done.any(), renew, lambda old: (old, keys), after)
        return renewed, later, after.obs, after.reward, terminated, truncated

    return step


def _choose(numpy: Any, done: Any, fresh: Any, old: Any) -> Any:
    return numpy.where(done.reshape(-1, *[1] * (old.ndim - 1)), fresh, old)


def _split(jax: Any, keys: Any) -> tuple[Any, Any]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def _space_of(obs: Any) -> spaces.Space:
    """The space of an observation by its shape; JAX environments tell no bounds."""
    if isinstance(obs, Mapping):
        return spaces.Dict({name: _space_of(part) for name, part in obs.items()})
    if not hasattr(obs, "shape") or not np.issubdtype(obs.dtype, np.floating):
        raise InvalidArgument(f"observations are {obs}; give an array of floats, or a flat mapping of such arrays")
    return spaces.Box(-math.inf, math.inf, obs.shape, np.dtype(obs.dtype).type)


def _to_torch(jax: Any, leaf: Any) -> th.Tensor:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.array(leaf)
    # torch has no unsigned numbers to speak of; the bits are what counts.
    return th.from_numpy(array.view(f"i{array.itemsize}") if array.dtype.kind == "u" else array)


def _from_torch(jax: Any, tensor: th.Tensor, like: Any) -> Any:
    array = tensor.cpu().numpy().copy()
    if jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jax.numpy.asarray(array.view(np.uint32)))
    return jax.numpy.asarray(array.view(like.dtype) if np.dtype(like.dtype).kind == "u" else array, dtype=like.dtype)


def _shape_in_jax(jax: Any, tensor: th.Tensor, like: Any) -> tuple[int, ...]:
    key = jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key)
    return tuple(tensor.shape[:-1] if key else tensor.shape)


def _import_jax() -> Any:
    try:
        import jax
        import jax.dlpack
    except ImportError as missing:
        raise ImportError(
            'JaxAdapter needs JAX: pip install "jax[cpu]", or jax[cuda13] for NVIDIA GPUs, and the package of the '
            "environment (mujoco-mjx, brax or playground)"
        ) from missing
    return jax
