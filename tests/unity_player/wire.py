"""The game's side of the socket: records out, actions in, side channels both ways."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np
from academy import Agent, Record
from failing import Quit
from scenes import Goal, Picture

# By its path: the package itself takes seconds to import, and a game knows nothing of it.
_FILE = Path(__file__).resolve().parents[2] / "sb3_ppo_plus" / "envs" / "unity" / "messages.py"
_SPEC = importlib.util.spec_from_file_location("unity_messages", _FILE)
messages = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(messages)

ENGINE = uuid.UUID("e951342c-4f7e-11ea-b238-784f4387d1f7")
PARAMETERS = uuid.UUID("534c891e-810f-11ea-a9d0-822485860400")
STATISTICS = uuid.UUID("a1d8f7b7-cec8-50f9-b78b-d3e165a78520")
_RESET = 1
_ENGINE_SETTINGS = ("resolution", "quality_level", "time_scale", "target_frame_rate", "capture_frame_rate")


class Game:
    """Environment parameters, statistics and the log of a game."""

    def __init__(self, log: str | None) -> None:
        self._parameters: dict[str, Callable[[], float]] = {}
        self._statistics: list[tuple[str, float, int]] = []
        self._log = open(log, "a", buffering=1) if log else None

    def parameter(self, key: str, default: float) -> float:
        """An environment parameter, drawn anew if it is a sampler (GetWithDefault)."""
        if key not in self._parameters:
            return default
        value = self._parameters[key]()
        self.log(drawn=key, value=value)
        return value

    def log(self, **entry: Any) -> None:
        """Write a line into the player's log."""
        if self._log is not None:
            self._log.write(json.dumps(entry) + "\n")

    def note(self, key: str, value: float, aggregation: int) -> None:
        """Send a statistic with the next message (StatsRecorder.Add)."""
        self._statistics.append((key, value, aggregation))
        self.log(statistic=key, value=value)

    def outgoing(self) -> bytes:
        """Side channel messages that wait."""
        data = b""
        for key, value, aggregation in self._statistics:
            text = key.encode()
            message = struct.pack("<i", len(text)) + text + struct.pack("<fi", value, aggregation)
            data += STATISTICS.bytes_le + struct.pack("<i", len(message)) + message
        self._statistics = []
        return data

    def incoming(self, data: bytes) -> None:
        """Read side channel messages."""
        while data:
            channel, size = uuid.UUID(bytes_le=data[:16]), struct.unpack_from("<i", data, 16)[0]
            message, data = data[20 : 20 + size], data[20 + size :]
            if channel == ENGINE:
                kind = struct.unpack_from("<i", message)[0]
                form = {0: "<ii", 2: "<f"}.get(kind, "<i")
                self.log(engine=_ENGINE_SETTINGS[kind], value=struct.unpack_from(form, message, 4))
            elif channel == PARAMETERS:
                self._set_parameter(message)
            else:
                self.log(channel=str(channel), n_bytes=size)

    def _set_parameter(self, message: bytes) -> None:
        size = struct.unpack_from("<i", message)[0]
        key, at = message[4 : 4 + size].decode(), 4 + size
        kind = struct.unpack_from("<i", message, at)[0]
        if kind == 0:
            value = struct.unpack_from("<f", message, at + 4)[0]
            self._parameters[key] = lambda: value
            self.log(parameter=key, value=value)
            return
        seed, sampler = struct.unpack_from("<ii", message, at + 4)
        if sampler in (0, 1):
            numbers = struct.unpack_from("<ff", message, at + 12)
        else:  # a list of floats, after its length
            count = struct.unpack_from("<i", message, at + 12)[0]
            numbers = struct.unpack_from(f"<{count}f", message, at + 16)
        self._parameters[key] = _sampler(sampler, numbers, np.random.default_rng(abs(seed)))
        self.log(parameter=key, sampler=("uniform", "gaussian", "multirange")[sampler], numbers=numbers, seed=seed)


def _sampler(kind: int, numbers: tuple[float, ...], rng: np.random.Generator) -> Callable[[], float]:
    if kind == 0:
        return lambda: float(rng.uniform(*numbers))
    if kind == 1:
        return lambda: float(rng.normal(*numbers))
    intervals = np.reshape(numbers, (-1, 2))
    widths = intervals[:, 1] - intervals[:, 0]
    return lambda: float(rng.uniform(*rng.choice(intervals, p=widths / widths.sum())))


class Wire:
    """
    The connection to Python, the client's end.

    :param options: command line options
    :param game: for side channels
    :param trouble: called with each phase, to fail in it
    """

    def __init__(self, options: Any, game: Game, trouble: Any) -> None:
        self.options, self.game, self._trouble = options, game, trouble
        self._input = messages.message_class("unity_input_pb2", "UnityInputProto")
        self._message = messages.message_class("unity_message_pb2", "UnityMessageProto")
        size = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(f"localhost:{options.mlagents_port}", options=size)
        self._call = self._channel.unary_unary(
            "/communicator_objects.UnityToExternalProto/Exchange",
            request_serializer=self._message.SerializeToString,
            response_deserializer=self._message.FromString,
        )
        self._known: set[str] = set()

    def _exchange(self, message: Any, phase: str) -> Any:
        """Send a message and wait for the answer; leave when Python says so, or is gone."""
        message.header.status = 200
        try:
            self._trouble(phase)
        except Quit:
            self._say_goodbye()
        try:
            answer = self._call(
                message, wait_for_ready=phase == "handshake", timeout=30 if phase == "handshake" else None
            )
        except grpc.RpcError as error:
            self.game.log(left=str(error.code()))
            raise SystemExit(0) from None
        if answer.header.status != 200:
            self._trouble("close")
            self.game.log(left="asked to")
            raise SystemExit(0)
        return answer.unity_input

    def _say_goodbye(self) -> NoReturn:
        """Leave of one's own accord, as when somebody closes the window (RpcCommunicator.Dispose)."""
        message = self._message()
        message.header.status = 400
        self.game.log(left="quit")
        with contextlib.suppress(grpc.RpcError):
            self._call(message)
        raise SystemExit(0)

    def introduce(self) -> int:
        """The handshake; gives the seed."""
        message = self._message()
        first = message.unity_output.rl_initialization_output
        first.name = "AcademySingleton"
        first.communication_version = self.options.communication_version
        first.package_version = self.options.package_version
        for capability in first.capabilities.DESCRIPTOR.fields:
            setattr(first.capabilities, capability.name, True)
        answer = self._exchange(message, "handshake").rl_initialization_input
        self.game.log(seed=answer.seed, num_areas=answer.num_areas, python=answer.package_version)
        # A command to reset comes with it and changes nothing: all agents begin anyway.
        self.game.incoming(self._exchange(self._message(), "handshake").rl_input.side_channel)
        return answer.seed

    def send(self, records: list[Record], phase: str) -> dict[int, tuple[np.ndarray, np.ndarray]] | None:
        """Send records; give actions by id, None when Python asks for a reset."""
        message = self._message()
        output = message.unity_output
        asking: dict[str, list[Agent]] = {}
        for record in records:
            agent = record.agent
            if agent.behavior not in self._known:
                self._known.add(agent.behavior)
                self._describe(output.rl_initialization_output.brain_parameters.add(), agent)
            self._write(output.rl_output.agentInfos[agent.behavior].value.add(), record)
            if not record.done:
                asking.setdefault(agent.behavior, []).append(agent)
        output.rl_output.side_channel = self.game.outgoing()
        answer = self._exchange(message, phase).rl_input
        self.game.incoming(answer.side_channel)
        if answer.command == _RESET:
            self.game.log(reset=True)
            return None
        return {
            agent.id: self._read(agent, action)
            for behavior, some in asking.items()
            for agent, action in zip(some, self._actions_of(answer, behavior, len(some)), strict=True)
        }

    def _actions_of(self, answer: Any, behavior: str, n: int) -> list[Any]:
        actions = list(answer.agent_actions[behavior].value)
        # Unity reads beyond the end of a list that is too short. One without any, which it would take for zeros, is a
        # mistake as well: here nobody should make one unnoticed.
        if len(actions) != n:
            self.game.log(error=f"{len(actions)} actions for {n} agents of {behavior}")
            raise SystemExit(3)
        return actions

    def _read(self, agent: Agent, action: Any) -> tuple[np.ndarray, np.ndarray]:
        continuous, discrete = np.array(action.continuous_actions, np.float32), np.array(action.discrete_actions, int)
        right = len(continuous) == agent.n_continuous and len(discrete) == len(agent.branches)
        if not right or not ((discrete >= 0) & (discrete < agent.branches)).all():
            self.game.log(error=f"{agent.behavior} got {continuous.tolist()} {discrete.tolist()}")
            raise SystemExit(3)
        return continuous, discrete

    def _describe(self, parameters: Any, agent: Agent) -> None:
        parameters.brain_name, parameters.is_training = agent.behavior, True
        spec = parameters.action_spec
        spec.num_continuous_actions, spec.num_discrete_actions = agent.n_continuous, len(agent.branches)
        spec.discrete_branch_sizes.extend(agent.branches)

    def _write(self, info: Any, record: Record) -> None:
        info.id, info.group_id = record.id, record.group_id
        info.done, info.max_step_reached = record.done, record.interrupted
        info.reward, info.group_reward = record.reward, record.group_reward
        info.action_mask.extend(record.forbidden or [])
        for name, values in record.sensors.items():
            self._write_sensor(info.observations.add(), name, values)

    def _write_sensor(self, obs: Any, name: str, values: Any) -> None:
        obs.name = name
        if isinstance(values, Goal):
            obs.observation_type, values = 1, values.values
        if not isinstance(values, Picture):
            obs.shape.extend(values.shape)
            obs.dimension_properties.extend([1] if values.ndim == 1 else [4, 1])
            obs.float_data.data.extend(values.ravel().tolist())
            return
        pixels, first = values.pixels, self.options.layout == "chw"
        obs.shape.extend((3, *pixels.shape[:2]) if first else pixels.shape)
        obs.dimension_properties.extend((1, 2, 2) if first else (2, 2, 1))
        if self.options.png:
            from PIL import Image

            file = io.BytesIO()
            Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(file, "PNG")
            obs.compression_type, obs.compressed_data = 1, file.getvalue()
            obs.compressed_channel_mapping.extend([0, 1, 2])
        else:
            obs.float_data.data.extend((pixels.transpose(2, 0, 1) if first else pixels).ravel().tolist())
