"""One game: its process, the handshake, and exchanges of actions for reports."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sb3_ppo_plus.envs.unity.communicator import Communicator
from sb3_ppo_plus.envs.unity.errors import GameLost, UnityError
from sb3_ppo_plus.envs.unity.executable import game_arguments
from sb3_ppo_plus.envs.unity.mailbox import Mailbox
from sb3_ppo_plus.envs.unity.messages import message_class
from sb3_ppo_plus.envs.unity.process import GameProcess, Watchdog
from sb3_ppo_plus.envs.unity.records import Report, read_report
from sb3_ppo_plus.envs.unity.specs import Behavior, read_behavior

# The newest communication version that is spoken here; a game needs the same major version.
_API_VERSION = "1.5.0"
_PYTHON_VERSION = "0.28.0"  # of mlagents-envs, whose messages these are
# What the game may send; it falls back to older forms where something is missing.
_CAPABILITIES = (
    "baseRLCapabilities",
    "concatenatedPngObservations",
    "compressedChannelMapping",
    "hybridActions",
    "variableLengthObservation",
    "multiAgentGroups",
)
_EDITOR = "the Unity editor"


class Launch(NamedTuple):
    """
    How games are started, the same for all of them.

    :param program: what to start, None for the editor
    :param graphics: whether games may draw
    :param arguments: more arguments of theirs
    :param log_folder: where their logs go, None for nowhere
    :param timeout: seconds to wait for the start, and for any answer
    :param host: address to listen on
    :param max_message_size: largest message in bytes
    :param num_areas: copies of the training area, for games with a TrainingAreaReplicator
    :param float_images: images as float32 in [0, 1] instead of uint8
    :param show_output: whether what games print goes to the terminal
    """

    program: Path | None
    graphics: bool
    arguments: Sequence[str]
    log_folder: Path | None
    timeout: float
    host: str
    max_message_size: int
    num_areas: int
    float_images: bool
    show_output: bool


class Actions(NamedTuple):
    """
    Actions for the agents of one behavior that asked, in their order.

    :param continuous: continuous actions [n, n_continuous]
    :param discrete: a choice in each branch [n, branches]
    """

    continuous: np.ndarray
    discrete: np.ndarray


class Game:
    """
    A game that was started, or is about to be.

    :param launch: how it is started
    :param worker: its number among the games of an environment
    :param port: where it finds this process
    :param seed: its seed
    :param mailbox: where its messages arrive
    :param channels: the side channels of this game
    :param watchdog: who ends its process should this one be killed
    """

    def __init__(
        self,
        launch: Launch,
        worker: int,
        port: int,
        seed: int,
        mailbox: Mailbox,
        channels: Any,
        watchdog: Watchdog,
    ) -> None:
        self.launch, self.worker, self.channels = launch, worker, channels
        self.behaviors: dict[str, Behavior] = {}
        self.package_version = self.communication_version = ""
        self._parameters: dict[str, Any] = {}
        self._seed, self.closed = seed, False
        #: whether it owes a message
        self.busy = True
        self._process: GameProcess | None = None
        self._deadline = 0.0
        self._communicator = Communicator(port, mailbox.inbox, self, launch.host, launch.max_message_size)
        if launch.program is not None:
            log = None if launch.log_folder is None else launch.log_folder / f"Player-{worker}.log"
            arguments = game_arguments(port, launch.graphics, log, launch.arguments)
            try:
                self._process = GameProcess(launch.program, arguments, watchdog, launch.show_output)
            except UnityError:
                self._communicator.close()
                raise
        self.expect()

    def __str__(self) -> str:
        return _EDITOR if self.launch.program is None else f"game {self.launch.program.name} (worker {self.worker})"

    # ------------------------------------------------ waiting

    def expect(self) -> None:
        """Begin to count the time until the next message."""
        self._deadline = time.monotonic() + self.launch.timeout

    def check(self, doing: str) -> None:
        """
        Look after a game that has not answered yet.

        :param doing: what it was to do
        :raises GameLost: when its process has ended, or its time is over
        """
        death = self._process.death() if self._process is not None else None
        if death is not None:
            raise GameLost(f"{self} {death}, while it was to {doing}", self)
        if time.monotonic() > self._deadline:
            late = f"{self} did not {doing} within {self.launch.timeout:g} seconds (timeout)"
            raise GameLost(f"{late}; {self._advice()}", self)

    def mourn(self, doing: str) -> None:
        """
        Tell why a game hung up. Its process dies at that moment, or is still busy dying: how says more than that.

        :param doing: what it was to do
        :raises GameLost: always
        """
        if self._process is not None:
            self._process.wait(1.0)
            self.check(doing)
        raise GameLost(f"{self} closed the connection, while it was to {doing}", self)

    def _advice(self) -> str:
        if self.launch.program is None:
            return "press Play, and see that the Behavior Type of the agents is Default"
        return (
            "see that it starts without a person who clicks something, that the Behavior Type of the agents is Default "
            "and that there is a screen or graphics=False; log_folder keeps its log"
        )

    # ------------------------------------------------ handshake

    def welcome(self, output: Any) -> None:
        """
        Read the game's first message and introduce ourselves.

        :param output: ``UnityOutputProto``
        :raises UnityError: when the game speaks another language
        """
        found = output.rl_initialization_output
        theirs, ours = found.communication_version, _API_VERSION
        if theirs.partition(".")[0] != ours.partition(".")[0]:
            raise UnityError(
                f"{self} speaks communication version {theirs or 'unknown'} (package {found.package_version}), this is "
                f"{ours}; build it with ML-Agents package 1.0 or newer"
            )
        self.package_version, self.communication_version = found.package_version, theirs
        self.learn_behaviors(output)
        answer = message_class("unity_input_pb2", "UnityInputProto")()
        first = answer.rl_initialization_input
        first.seed, first.num_areas = self._seed, self.launch.num_areas
        first.communication_version, first.package_version = ours, _PYTHON_VERSION
        for capability in _CAPABILITIES:
            setattr(first.capabilities, capability, True)
        self._send(answer)

    def learn_behaviors(self, output: Any) -> None:
        """
        Note the behaviors that a message introduces; one is known once an agent of it was seen.

        :param output: ``UnityOutputProto``
        """
        for parameters in output.rl_initialization_output.brain_parameters:
            self._parameters[parameters.brain_name] = parameters
        for name in [name for name in self._parameters if name not in self.behaviors]:
            agents = output.rl_output.agentInfos[name].value if name in output.rl_output.agentInfos else []
            if agents:
                self.behaviors[name] = read_behavior(self._parameters.pop(name), agents[0], self.package_version)

    # ------------------------------------------------ exchanges

    def reset(self) -> None:
        """Answer the game's last message: begin anew."""
        answer = message_class("unity_input_pb2", "UnityInputProto")()
        answer.rl_input.command = 1
        answer.rl_input.side_channel = self.channels.outgoing()
        self._send(answer)

    def step(self, actions: Mapping[str, Actions]) -> None:
        """
        Answer the game's last message: go on with these actions.

        :param actions: for each behavior, in the order in which its agents asked
        """
        answer = message_class("unity_input_pb2", "UnityInputProto")()
        answer.rl_input.command = 0
        answer.rl_input.side_channel = self.channels.outgoing()
        for name, (continuous, discrete) in actions.items():
            values = answer.rl_input.agent_actions[name].value
            both = continuous.shape[1] and discrete.shape[1]
            for numbers, choices in zip(continuous.tolist(), discrete.tolist(), strict=True):
                action = values.add()
                action.continuous_actions.extend(numbers)
                action.discrete_actions.extend(choices)
                if not both:  # games from before communication version 1.3 read nothing else, and knew no hybrids
                    action.vector_actions_deprecated.extend(numbers or choices)
        self._send(answer)

    def _send(self, answer: Any) -> None:
        self._communicator.send(answer)
        self.busy = True
        self.expect()

    def read(self, output: Any) -> dict[str, Report]:
        """
        Read a message that came after :meth:`reset` or :meth:`step`.

        :param output: ``UnityOutputProto``
        :return: what each behavior says that is known by now
        """
        self.learn_behaviors(output)
        self.channels.incoming(output.rl_output.side_channel)
        infos = output.rl_output.agentInfos
        return {
            name: read_report(infos[name].value if name in infos else [], behavior, self.launch.float_images)
            for name, behavior in self.behaviors.items()
        }

    def hang_up(self) -> None:
        """Tell the game that it is over, without waiting for its end."""
        self.closed = True
        self._communicator.close()

    def close(self, seconds: float = 5.0) -> None:
        """
        End the game; doing it twice is fine.

        :param seconds: how long it may take to do so by itself
        """
        self.hang_up()
        if self._process is not None:
            self._process.end(seconds)
            self._process = None
