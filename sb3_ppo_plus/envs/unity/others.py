"""Who plays the agents that are not trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.unity.game import Actions
from sb3_ppo_plus.envs.unity.records import Records
from sb3_ppo_plus.envs.unity.specs import Behavior
from sb3_ppo_plus.errors import InvalidArgument

KINDS = ("zeros", "random")
Player = Callable[[Behavior, Records], Actions]


def family(name: str) -> str:
    """
    :param name: name of a behavior, such as ``Striker?team=0``
    :return: the name without its team
    """
    return name.partition("?")[0]


def check_others(others: Any) -> None:
    """
    :param others: who plays the other behaviors: one for all, or a mapping by name
    :raises InvalidArgument: for what cannot play
    """
    for player in others.values() if isinstance(others, Mapping) else [others]:
        if player not in KINDS and not callable(player) and not hasattr(player, "predict"):
            raise InvalidArgument(
                f"others: {player!r} cannot play; give 'zeros', 'random', a model with predict(), or a function of "
                "observations and masks that returns actions"
            )


class Others:
    """
    The players of one game's other behaviors.

    :param others: one for all, or a mapping by name, with or without its team
    :param seed: of the random ones
    :param float_images: how images come
    """

    def __init__(self, others: Any, seed: int, float_images: bool) -> None:
        self._others, self._float_images = others, float_images
        self._rng = np.random.default_rng(seed)
        self._taken_over: dict[str, Any] = {}

    def take_over(self, behavior: str, player: Any) -> None:
        """
        :param behavior: its name
        :param player: who plays it from now on
        """
        self._taken_over[behavior] = player

    def act(self, behavior: Behavior, asking: Records) -> Actions:
        """
        :param behavior: whose agents ask
        :param asking: what they see
        :return: their actions
        """
        player = self._player(behavior.name)
        if player == "random":
            return self._random(behavior, asking)
        if player == "zeros":
            return zeros(behavior, asking)
        return self._ask(player, behavior, asking)

    def _player(self, name: str) -> Any:
        if name in self._taken_over:
            return self._taken_over[name]
        if not isinstance(self._others, Mapping):
            return self._others
        return self._others.get(name, self._others.get(family(name), "zeros"))

    def _random(self, behavior: Behavior, asking: Records) -> Actions:
        continuous = self._rng.uniform(-1.0, 1.0, (len(asking), behavior.n_continuous)).astype(np.float32)
        scores = self._rng.random((len(asking), sum(behavior.branches)))
        return Actions(continuous, _best(scores, behavior, asking))

    def _ask(self, player: Any, behavior: Behavior, asking: Records) -> Actions:
        parts = asking.observations
        obs: Any = parts[0] if len(parts) == 1 else dict(zip(behavior.observation_names(), parts, strict=True))
        if not hasattr(player, "predict"):
            actions = player(obs, asking.masks)
        elif getattr(player, "takes_masks", False) and asking.masks is not None:
            actions, _ = player.predict(obs, action_masks=asking.masks)
        else:
            actions, _ = player.predict(obs)
        split = split_actions(np.asarray(actions), behavior)
        if len(split.continuous) != len(asking):
            raise InvalidArgument(
                f"others: the player of {behavior.name!r} gave {len(split.continuous)} actions for {len(asking)} agents"
            )
        return split


def zeros(behavior: Behavior, asking: Records) -> Actions:
    """
    Do nothing: zeros, and in each branch the first choice that is allowed.

    :param behavior: whose agents ask
    :param asking: what they see
    :return: their actions
    """
    scores = np.zeros((len(asking), sum(behavior.branches)))
    return Actions(np.zeros((len(asking), behavior.n_continuous), np.float32), _best(scores, behavior, asking))


def _best(scores: np.ndarray, behavior: Behavior, asking: Records) -> np.ndarray:
    """The allowed choice of the highest score in each branch [n, branches]."""
    if asking.masks is not None:
        scores = np.where(asking.masks, scores, -1.0)
    ends = np.cumsum((0, *behavior.branches))
    choices = [scores[:, a:b].argmax(axis=1) for a, b in itertools.pairwise(ends)]
    return np.stack(choices, axis=1) if choices else np.zeros((len(asking), 0), np.int64)


def split_actions(actions: np.ndarray, behavior: Behavior) -> Actions:
    """
    From actions of the behavior's space to what the game takes.

    :param actions: one a row, as :meth:`Behavior.action_space` has them [n], [n, A]
    :param behavior: the behavior
    :return: continuous and discrete actions
    """
    rows = actions.reshape(len(actions), -1)
    n = behavior.n_continuous
    continuous = rows[:, :n].astype(np.float32)
    return Actions(continuous, np.rint(rows[:, n:]).astype(np.int64))
