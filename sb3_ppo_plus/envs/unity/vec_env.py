"""Unity games as vectorized environments: every agent of every game a row."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th

from sb3_ppo_plus.buffers import AWAITS_ACTION, INVALID_ROW, LOST_ROW
from sb3_ppo_plus.envs.arrays import map_observations, to_tensors
from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN, TensorVecEnv
from sb3_ppo_plus.envs.unity.channels import Channels, Statistics, engine_settings
from sb3_ppo_plus.envs.unity.executable import find_executable
from sb3_ppo_plus.envs.unity.game import Launch
from sb3_ppo_plus.envs.unity.others import check_others, split_actions
from sb3_ppo_plus.envs.unity.parameters import Curriculum, Sampler, read_parameters
from sb3_ppo_plus.envs.unity.play import Play
from sb3_ppo_plus.envs.unity.seats import Seats
from sb3_ppo_plus.envs.unity.workers import RestartLimits, Workers
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import ArrayStep, Observations, TensorStep

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.unity.together import Table

logger = logging.getLogger(__name__)

GROUP_REWARDS = ("add", "ignore", "separate")
IMAGES = ("uint8", "float32")
_MAX_SEED = 2**31 - 1


class UnityVecEnv(TensorVecEnv):
    """
    A Unity ML-Agents game, or several copies of it, as one vectorized environment: each agent of each game is a row.

    Agents decide at rhythms of their own. A step ends as soon as every game has an agent that asks for an action; rows
    of agents that do not ask are marked (``info["invalid_row"]``), and PPOPlus passes over them. SB3's own algorithms
    train on such rows as if they were decisions, so use them only for games whose agents all decide together.

    :param file_name: the built game, or None to wait for the Unity editor's Play button
    :param behavior: name of the behavior to train, with or without its ``?team=``; may be left out when there is one
    :param n_workers: copies of the game, each a process; they step side by side
    :param base_port: port of the first copy, the others count up; None for ports that are free (5004 for the editor)
    :param seed: of the first copy, the others count up; None for a different one each time
    :param time_scale: how many times as fast as real time games run, 1 to 100; too much breaks the physics of some
    :param graphics: whether games may draw; needs a screen, and cameras see nothing without
    :param timeout: seconds to wait for the start of a game and for each of its answers; larger for slow starts
    :param environment_parameters: name to number, sampler or curriculum, in the form of ML-Agents' YAML
    :param n_agents: rows for each copy; None counts the agents that play at once in the first moments
    :param others: who plays other behaviors: ``"zeros"``, ``"random"``, a model, a function of (observations, masks),
        or a mapping from behavior to one of these
    :param group_reward: ``"add"`` to each agent's own, ``"ignore"``, or ``"separate"`` (``info["group_reward"]``)
    :param images: ``"uint8"``, a quarter of the memory and what SB3's networks take as it is, or ``"float32"`` in [0,
        1] for sensors whose channels are not pictures (then ``policy_kwargs={"normalize_images": False}``)
    :param engine: other settings of the engine: width, height, quality_level, target_frame_rate, capture_frame_rate
    :param side_channels: function that makes the user's own side channels for a worker, given its number
    :param arguments: more command line arguments of the game
    :param log_folder: where the games' logs go
    :param num_areas: copies of the training area within a game that has a TrainingAreaReplicator
    :param max_restarts: how often each copy is started again when it crashes or hangs; 0 for never, -1 for always
    :param restart_rate: (n, seconds): at most so many restarts of a copy within that time
    :param host: address to listen on; games elsewhere need ``"0.0.0.0"``, and a network that is trusted
    :param max_message_size: largest message in bytes
    :param show_output: whether what games print goes to the terminal
    :raises InvalidArgument: for an argument that cannot work
    :raises UnityError: for a game that does not start, or has no such behavior
    """

    def __init__(
        self,
        file_name: str | os.PathLike[str] | None = None,
        behavior: str | list[str] | None = None,
        n_workers: int = 1,
        base_port: int | None = None,
        seed: int | None = None,
        time_scale: float = 20.0,
        graphics: bool = True,
        timeout: float = 60.0,
        environment_parameters: Mapping[str, Any] | None = None,
        n_agents: int | None = None,
        others: Any = "zeros",
        group_reward: str = "add",
        images: str = "uint8",
        engine: Mapping[str, Any] | None = None,
        side_channels: Callable[[int], Sequence[Any]] | None = None,
        arguments: Sequence[str] = (),
        log_folder: str | os.PathLike[str] | None = None,
        num_areas: int = 1,
        max_restarts: int = 10,
        restart_rate: tuple[int, float] = (1, 60.0),
        host: str = "localhost",
        max_message_size: int = 2**30,
        show_output: bool = False,
    ) -> None:
        _check_choice("group_reward", group_reward, GROUP_REWARDS)
        _check_choice("images", images, IMAGES)
        _check_counts(file_name, timeout, n_workers=n_workers, n_agents=n_agents, num_areas=num_areas)
        check_others(others)
        self.seed_of_games = _drawn_seed() if seed is None else int(seed)
        self.group_reward, self.render_mode, self.metadata = group_reward, None, {"render_modes": []}
        self.statistics = Statistics()
        program = None if file_name is None else find_executable(file_name)
        connection = (float(timeout), host, max_message_size, num_areas)
        launch = Launch(
            program, graphics, tuple(arguments), _made(log_folder), *connection, images == "float32", show_output
        )
        self._settings, self._side_channels = engine_settings(time_scale, engine), side_channels
        self._parameters = read_parameters(environment_parameters)
        self._progress = 0.0
        limits = RestartLimits(max_restarts, *restart_rate)
        self.workers = Workers(launch, n_workers, base_port, self.seed_of_games, self._make_channels, limits)
        wanted = behavior if isinstance(behavior, list) else [behavior]
        try:
            self.play = Play(self.workers, wanted, others, self.seed_of_games, n_agents)
            self._sit_down(self.play.seats[0])
        except BaseException as error:
            self.workers.abandon(error)
            raise

    def _sit_down(self, seats: Seats) -> None:
        """Become the environment of one behavior."""
        spec, self.seats, self._rows = seats.behavior, seats, seats.rows
        images = self.workers.launch.float_images
        super().__init__(len(seats.rows.asks), spec.observation_space(images), spec.action_space(), "cpu")
        self._names = spec.observation_names() if len(spec.sensors) > 1 else None
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        #: episodes that were lost with their game so far
        self.num_lost_episodes = 0
        #: whose turn it is, while several behaviors learn together
        self.table: Table | None = None

    @classmethod
    def for_behaviors(
        cls, file_name: str | os.PathLike[str] | None, behaviors: Sequence[str], **arguments: Any
    ) -> dict[str, UnityVecEnv]:
        """
        Make an environment for each of several behaviors of the same games, to be trained with
        :func:`~sb3_ppo_plus.envs.unity.learn_together`; closing one closes all.

        :param file_name: the built game, or None for the editor
        :param behaviors: their names
        :param arguments: the constructor's other arguments
        :return: environments by the names that were given
        """
        if not behaviors or isinstance(behaviors, str):
            raise InvalidArgument(f"behaviors={behaviors!r} has to be a list of names")
        first = cls(file_name, list(behaviors), **arguments)
        envs = {behaviors[0]: first}
        for name, seats in zip(behaviors[1:], first.play.seats[1:], strict=True):
            envs[name] = copy.copy(first)
            envs[name]._sit_down(seats)
        return envs

    #: rows may stay empty for as long as they like: nobody should wait for an episode in each
    agents_come_and_go = True

    def _make_channels(self, worker: int) -> Channels:
        more = () if self._side_channels is None else self._side_channels(worker)
        channels = Channels(self._settings, self.statistics, more)
        for key, value in self._parameters.items():
            current = value.lesson.value if isinstance(value, Curriculum) else value
            channels.set_parameter(key, current, self.seed_of_games + worker)
        return channels

    @property
    def _curricula(self) -> list[Curriculum]:
        return [value for value in self._parameters.values() if isinstance(value, Curriculum)]

    # ------------------------------------------------ the environment

    @property
    def behavior(self) -> str:
        """:return: name of the behavior that is trained"""
        return self.seats.behavior.name

    @property
    def behaviors(self) -> dict[str, Any]:
        """:return: all behaviors that the games have shown so far, by name"""
        return {name: behavior for game in self.workers.games for name, behavior in game.behaviors.items()}

    def reset_games(self) -> Any:
        """
        Reset all games.

        :return: first observations, as arrays that are not touched again
        """
        self.take_seeds()
        (self.play if self.table is None else self.table).reset()
        self._returns[:], self._lengths[:] = 0.0, 0
        return self._observations(self._rows.obs.arrays)

    def reset_tensors(self) -> Observations:
        """See :meth:`TensorVecEnv.reset_tensors`; agents that do not ask at once begin with zeros."""
        return map_observations(th.from_numpy, self.reset_games())

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """See :meth:`TensorVecEnv.step_tensors`."""
        step = self.step_arrays(actions.cpu().numpy())
        return TensorStep(
            map_observations(th.from_numpy, step.obs),
            th.from_numpy(step.rewards),
            th.from_numpy(step.terminated),
            th.from_numpy(step.truncated),
            map_observations(th.from_numpy, step.final_obs),
            to_tensors(step.stats),
        )

    def step_arrays(self, actions: np.ndarray) -> ArrayStep:
        """See :meth:`TensorVecEnv.step_arrays`."""
        rows = self._rows
        if len(actions) != self.num_envs:
            raise InvalidArgument(f"{len(actions)} actions for {self.num_envs} agents")
        asked = rows.asks.copy()
        rows.start_step()
        chosen = split_actions(actions, self.seats.behavior)
        if self.table is None:
            self.play.step({self.seats: chosen})
        else:
            self.table.step(self.seats, chosen)
        rewards = rows.rewards + rows.group_rewards if self.group_reward == "add" else rows.rewards.copy()
        self._returns += rewards
        self._lengths += asked
        self.num_lost_episodes += int(rows.lost.sum())
        going_on = ~rows.ended
        rows.final.copy_rows(rows.obs, going_on)
        stats = {
            EPISODE_RETURN: self._returns.copy(),
            EPISODE_LENGTH: self._lengths.copy(),
            INVALID_ROW: ~asked,
            AWAITS_ACTION: rows.asks.copy(),
            LOST_ROW: rows.lost.copy(),
        }
        if self.group_reward == "separate":
            stats["group_reward"] = rows.group_rewards.copy()
        self._follow_curricula(self._returns[rows.ended & ~rows.lost].tolist())
        self._returns *= going_on
        self._lengths *= going_on
        return ArrayStep(
            self._observations(rows.obs.arrays),
            rewards,
            rows.terminated.copy(),
            rows.truncated.copy(),
            self._observations(rows.final.arrays),
            stats,
        )

    def _observations(self, arrays: Sequence[np.ndarray]) -> Any:
        if self._names is None:
            return arrays[0].copy()
        return {name: array.copy() for name, array in zip(self._names, arrays, strict=True)}

    def _add_ends(self, infos: list[dict[str, Any]], step: ArrayStep, finished: Sequence[int]) -> None:
        super()._add_ends(infos, step, finished)
        for info, index in zip(infos, finished, strict=True):
            if step.stats[LOST_ROW][index]:
                # What was seen last is not what came of it: nobody is to bootstrap from that.
                info.pop("terminal_observation", None)
                info.pop("episode", None)

    @property
    def provides_episodes(self) -> bool:
        """:return: True: finished episodes come with ``info["episode"]``"""
        return True

    def action_masks(self) -> np.ndarray | None:
        """
        :return: True where an action may be taken now, in sb3-contrib's form; None without discrete actions [N, D]
        """
        return self._rows.masks.copy() if self._rows.masks.shape[1] else None

    # ------------------------------------------------ parameters, curricula, statistics

    def set_environment_parameters(self, **values: Any) -> None:
        """
        Change environment parameters; games hear of it with their next step, and most read them at their next reset.

        :param values: name to number or sampler, see the constructor
        :raises InvalidArgument: for what is none
        """
        for key, value in read_parameters(values).items():
            if isinstance(value, Curriculum):
                raise InvalidArgument(f"environment parameter {key!r}: give curricula to the constructor")
            self._parameters[key] = value  # for games that are started again, too
            self._announce(key, value)

    def _announce(self, key: str, value: float | Sampler) -> None:
        for worker, game in enumerate(self.workers.games):
            game.channels.set_parameter(key, value, self.seed_of_games + worker)

    def note_progress(self, progress: float) -> None:
        """
        :param progress: share of the training that is over, in [0, 1], for curricula that follow it
        """
        self._progress = progress

    def _follow_curricula(self, episode_returns: list[float]) -> None:
        for curriculum in self._curricula:
            curriculum.note(episode_returns)
            if curriculum.advance(self._progress):
                lesson = curriculum.lesson
                logger.info("%s: lesson %s begins (%s)", curriculum.key, lesson.name, lesson.value)
                self._announce(curriculum.key, lesson.value)

    def take_log(self) -> dict[str, float]:
        """
        :return: what is worth a line in the log since the last call: the games' own statistics, lessons, losses
        """
        log = self.statistics.take()
        log |= {f"lesson/{curriculum.key}": float(curriculum.number) for curriculum in self._curricula}
        counts = {
            "unity/restarts": sum(self.workers.n_restarts),
            "unity/lost_episodes": self.num_lost_episodes,
            "unity/episodes_without_decision": self._rows.n_dropped,
            "unity/agents_without_row": self.seats.n_without_row,
        }
        return log | {name: float(count) for name, count in counts.items() if count}

    # ------------------------------------------------ SB3's face

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        Games take their seed when they start, and keep it; give it to the constructor.

        :param seed: not used
        :return: seeds of the games that the rows belong to
        """
        per_game = self.num_envs // len(self.workers.games)
        return [self.seed_of_games + row // per_game for row in range(self.num_envs)]

    def state_dict(self) -> dict[str, Any]:
        """:raises InvalidArgument: always: a game gives nobody its state"""
        raise InvalidArgument("a Unity game cannot give its state; a training goes on with new episodes instead")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: not used
        :raises InvalidArgument: always
        """
        raise InvalidArgument("a Unity game cannot take a state; a training goes on with new episodes instead")

    def get_images(self) -> Sequence[np.ndarray | None]:
        """:return: None for each row: games draw in windows of their own"""
        return [None] * self.num_envs

    def close(self) -> None:
        """End the games; doing it twice is fine."""
        self.workers.close()


def _drawn_seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0]) % _MAX_SEED


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidArgument(f"{name}={value!r}; there are {', '.join(choices)}")


def _check_counts(file_name: Any, timeout: float, **counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
            raise InvalidArgument(f"{name}={value!r} has to be a whole number, 1 or more")
    if not timeout > 0:
        raise InvalidArgument(f"timeout={timeout!r} has to be more than 0 seconds")
    if file_name is None and counts["n_workers"] != 1:
        raise InvalidArgument(
            f"n_workers={counts['n_workers']}: there is one editor; build the game to run copies of it"
        )


def _made(folder: str | os.PathLike[str] | None) -> Path | None:
    if folder is None:
        return None
    path = Path(folder).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path
