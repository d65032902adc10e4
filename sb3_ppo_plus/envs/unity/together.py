"""
Several behaviors of one game that learn at the same time, each with a model of its own.

Every model's ``learn()`` runs in a thread, and one thread runs at a time: a model that has chosen its actions hands
over to the next whose agents ask, and when all of these have chosen, the games go on. So the draws of the generators
that all models share have one order, and a seed gives one training.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from sb3_ppo_plus.envs.unity.errors import UnityError
from sb3_ppo_plus.envs.unity.game import Actions
from sb3_ppo_plus.envs.unity.play import Play
from sb3_ppo_plus.envs.unity.seats import Seats
from sb3_ppo_plus.envs.unity.vec_env import UnityVecEnv
from sb3_ppo_plus.errors import InvalidArgument


class Table:
    """
    Takes turns.

    :param play: the games
    :param seats: of each model
    """

    def __init__(self, play: Play, seats: list[Seats]) -> None:
        self.play = play
        self._playing = list(seats)
        self._turns = deque(seats)
        self._may_run = {one: threading.Semaphore(0) for one in seats}
        self._chosen: dict[Seats, Actions] = {}
        self._fresh = False
        self.error: BaseException | None = None

    def start(self) -> None:
        """Let the first one run."""
        self._hand_over()

    def wait(self, seats: Seats) -> None:
        """
        Wait for the next turn.

        :param seats: whose
        :raises UnityError: when somebody else has failed
        """
        self._may_run[seats].acquire()
        if self.error is not None:
            raise UnityError(f"another model's training ended: {self.error}") from self.error

    def reset(self) -> None:
        """Reset the games, once for all models that begin."""
        if not self._fresh:
            self.play.reset()
            self._fresh = True

    def step(self, seats: Seats, actions: Actions) -> None:
        """
        Choose actions, and wait until somebody asks again.

        :param seats: whose turn it is
        :param actions: of their rows
        """
        self._chosen[seats] = actions
        self._hand_over()
        self.wait(seats)

    def leave(self, seats: Seats) -> None:
        """
        Take no more turns.

        :param seats: whose training is over
        """
        self._playing.remove(seats)
        self._chosen.pop(seats, None)
        if self._playing:
            self._hand_over()

    def fail(self, error: BaseException) -> None:
        """
        End the training of all.

        :param error: what happened to one
        """
        self.error = self.error or error
        for may_run in self._may_run.values():
            may_run.release()

    def _hand_over(self) -> None:
        """Let the next one run; the games go on when nobody is left whose agents ask."""
        while not self._turns:
            self._fresh = False
            self.play.step(self._chosen)
            self._turns.extend(one for one in self._playing if one.rows.asks.any())
        self._may_run[self._turns.popleft()].release()


def learn_together(models: Mapping[str, Any], total_timesteps: int | Mapping[str, int], **arguments: Any) -> None:
    """
    Train several models at once, each on its own behavior of the same games.

    :param models: by behavior; made with the environments of :meth:`UnityVecEnv.for_behaviors`, wrapped or not
    :param total_timesteps: steps of each model, for all or by behavior; whoever is done goes on playing as it learned
    :param arguments: further arguments of ``learn()``, the same for all
    :raises InvalidArgument: when the models do not play the same games, or two the same behavior
    """
    envs = {name: _unity_env(name, model) for name, model in models.items()}
    plays = {id(env.play) for env in envs.values()}
    if len(plays) != 1 or len({env.seats for env in envs.values()}) != len(envs):
        raise InvalidArgument(
            "learn_together: the models need environments of one UnityVecEnv.for_behaviors(...), each another behavior"
        )
    table = Table(next(iter(envs.values())).play, [env.seats for env in envs.values()])
    steps = total_timesteps if isinstance(total_timesteps, Mapping) else dict.fromkeys(models, total_timesteps)
    threads = [
        threading.Thread(target=_learn, args=(table, envs[name], model, steps[name], arguments), daemon=True)
        for name, model in models.items()
    ]
    for env in envs.values():
        env.table = table
    try:
        for thread in threads:
            thread.start()
        table.start()
        while any(thread.is_alive() for thread in threads):
            # In pieces, or Ctrl-C would wait for the end of the training.
            for thread in threads:
                thread.join(0.1)
    except BaseException as error:
        table.fail(error)
        for thread in threads:
            thread.join()
        raise
    finally:
        for env in envs.values():
            env.table = None
    if table.error is not None:
        raise table.error


def _learn(table: Table, env: UnityVecEnv, model: Any, steps: int, arguments: Mapping[str, Any]) -> None:
    try:
        table.wait(env.seats)
        model.learn(steps, **arguments)
        table.play.take_over(env.behavior, _player(model))
        table.leave(env.seats)
    except BaseException as error:
        table.fail(error)


def _unity_env(name: str, model: Any) -> UnityVecEnv:
    env = model.get_env()
    while isinstance(env, VecEnvWrapper) and not isinstance(env, UnityVecEnv):
        env = env.venv
    if not isinstance(env, UnityVecEnv):
        raise InvalidArgument(f"learn_together: the model for {name!r} has no UnityVecEnv; make it with one")
    return env


def _player(model: Any) -> Any:
    """The model with its normalizer, as a function of what the game shows."""
    normalizer = model.get_env()
    while isinstance(normalizer, VecEnvWrapper) and not isinstance(normalizer, VecNormalize):
        normalizer = normalizer.venv

    def play(obs: Any, masks: np.ndarray | None) -> np.ndarray:
        seen = normalizer.normalize_obs(obs) if isinstance(normalizer, VecNormalize) else obs
        more = {"action_masks": masks} if masks is not None and getattr(model, "takes_masks", False) else {}
        actions, _ = model.predict(seen, **more)
        return actions

    return play
