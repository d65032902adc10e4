"""The state of callbacks: of those that say what it is, and of SB3's own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.envs.state import capture_env, restore_env

logger = logging.getLogger(__name__)

# What SB3's callbacks remember, beside the two counters of every callback.
_REMEMBERED: dict[type[BaseCallback], tuple[str, ...]] = {
    EvalCallback: (
        "best_mean_reward",
        "last_mean_reward",
        "evaluations_results",
        "evaluations_timesteps",
        "evaluations_length",
        "evaluations_successes",
    ),
    EveryNTimesteps: ("last_time_trigger",),
    StopTrainingOnMaxEpisodes: ("n_episodes",),
    StopTrainingOnNoModelImprovement: ("last_best_mean_reward", "no_improvement_evals"),
}
_CHILDREN = ("callback", "callback_on_new_best")


class CallbackStates:
    """
    Takes the states of a tree of callbacks; what changes seldom is taken again only when it did.

    :param root: outermost callback of a call of ``learn()``
    """

    def __init__(self, root: BaseCallback) -> None:
        self.root = root
        self._evaluation_envs: dict[int, tuple[int, Any]] = {}

    def take(self) -> list[dict[str, Any]]:
        """
        :return: one mapping of plain data for each callback, outer ones first
        """
        return [self._of(callback) for callback in walk(self.root)]

    def _of(self, callback: BaseCallback) -> dict[str, Any]:
        state: dict[str, Any] = {
            "type": _name(callback),
            "n_calls": int(callback.n_calls),
            "num_timesteps": int(callback.num_timesteps),
            "attributes": {name: _plain(getattr(callback, name)) for name in _remembered(callback)},
        }
        if callable(getattr(callback, "state_dict", None)):
            state["own"] = callback.state_dict()  # type: ignore[attr-defined]
        if isinstance(callback, EvalCallback) and isinstance(callback.eval_env, VecEnv):
            state["eval_env"] = self._evaluation_env(callback, callback.eval_env)
        return state

    def _evaluation_env(self, callback: EvalCallback, env: VecEnv) -> Any:
        """Evaluations are all that moves it, and each is noted."""
        done = len(callback.evaluations_timesteps)
        known = self._evaluation_envs.get(id(callback))
        if known is None or known[0] != done:
            known = done, capture_env(env).tree
            self._evaluation_envs[id(callback)] = known
        return known[1]


def put_back(root: BaseCallback, states: Sequence[Mapping[str, Any]], tell: bool = False) -> None:
    """
    Give callbacks their states; those of one class get them in the order in which they stand.

    :param root: outermost callback of a call of ``learn()``
    :param states: what :class:`CallbackStates` took
    :param tell: whether to log which states found no callback
    """
    left: dict[str, list[Mapping[str, Any]]] = {}
    for state in states:
        left.setdefault(str(state["type"]), []).append(state)
    for callback in walk(root):
        waiting = left.get(_name(callback))
        if waiting:
            _put_back_one(callback, waiting.pop(0))
    missing = Counter(
        name.rpartition(".")[2]
        for name, waiting in left.items()
        for state in waiting
        if "own" in state or state["attributes"]
    )
    if tell and missing:
        names = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in sorted(missing.items()))
        logger.warning(
            "the checkpoint has the state of callbacks that learn() was not given: %s; given later, they start anew",
            names,
        )


def _put_back_one(callback: BaseCallback, state: Mapping[str, Any]) -> None:
    callback.n_calls, callback.num_timesteps = state["n_calls"], state["num_timesteps"]
    for name in _remembered(callback):
        if name in state["attributes"]:
            value = state["attributes"][name]
            setattr(callback, name, list(value) if isinstance(value, list) else value)
    if "own" in state and callable(getattr(callback, "load_state_dict", None)):
        callback.load_state_dict(state["own"])  # type: ignore[attr-defined]
    if isinstance(callback, EvalCallback) and isinstance(callback.eval_env, VecEnv) and "eval_env" in state:
        restore_env(callback.eval_env, state["eval_env"])


def walk(callback: BaseCallback) -> Iterator[BaseCallback]:
    """
    :param callback: a callback
    :return: it, and all that hang on it
    """
    yield callback
    children = list(callback.callbacks) if isinstance(callback, CallbackList) else []
    children += [child for name in _CHILDREN if isinstance(child := getattr(callback, name, None), BaseCallback)]
    for child in children:
        yield from walk(child)


def _remembered(callback: BaseCallback) -> list[str]:
    names = [name for kind, names in _REMEMBERED.items() if isinstance(callback, kind) for name in names]
    return [name for name in names if hasattr(callback, name)]


def _plain(value: Any) -> Any:
    """Lists that later evaluations append to are copied, down to their numbers."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _name(callback: BaseCallback) -> str:
    kind = type(callback)
    return f"{kind.__module__}.{kind.__qualname__}"
