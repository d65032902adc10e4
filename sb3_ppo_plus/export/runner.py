"""
Act with an ONNX file: NumPy and onnxruntime, neither torch nor Stable-Baselines3.

    policy = OnnxPolicy("policy.onnx")
    action, state = policy.predict(obs)          # one observation or a batch, as SB3's predict()
    action = policy.act(obs)                     # on a robot: remembers its own state; policy.reset() between episodes
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ppo_plus.errors import DamagedFile, InvalidArgument
from sb3_ppo_plus.export.metadata import SPEC, read_json
from sb3_ppo_plus.export.sealing import DIGEST, read_onnx

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}
_MASKS = "action_masks"
State = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Input:
    """
    One input of the file.

    :param name: its name
    :param key: part of a Dict observation, ``""`` for a whole one
    :param shape: shape of one row, without the batch
    :param batch_axis: where the batch stands
    :param dtype: type of its numbers
    :param channels_last: whether the environment's images have their channels last, and the file's first
    :param divide_by: what the environment's numbers are divided by
    """

    name: str
    key: str
    shape: tuple[int, ...]
    batch_axis: int
    dtype: Any
    channels_last: bool = False
    divide_by: float = 1.0

    def zeros(self, rows: int) -> np.ndarray:
        """
        :param rows: B
        :return: zeros of this shape
        """
        shape = list(self.shape)
        shape.insert(self.batch_axis, rows)
        return np.zeros(shape, dtype=self.dtype)


class OnnxPolicy:
    """
    A policy in an ONNX file that ``ppo-plus export`` wrote, whatever the target.

    :param path: ONNX file
    :param threads: threads of onnxruntime; one is fastest for small networks, and has the steadiest latency
    :param seed: seed of drawn actions, None for a different one each time; onnxruntime keeps one for the whole process
    :param providers: execution providers of onnxruntime, such as ``["CUDAExecutionProvider"]``
    :raises ImportError: when onnxruntime is not installed
    :raises DamagedFile: when it is no ONNX model, has changed since it was written, or refers to other files
    :raises InvalidArgument: when there is no such file, or when it has no actions
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int = 1,
        seed: int | None = None,
        providers: list[str] | None = None,
    ) -> None:
        try:
            import onnxruntime as ort
        except ImportError as missing:
            raise ImportError("OnnxPolicy needs onnxruntime: pip install onnxruntime") from missing
        self.path = Path(path)
        content = read_onnx(self.path)
        if threads < 1:
            raise InvalidArgument(f"threads={threads} must be at least 1")
        if seed is not None:
            ort.set_seed(seed)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(content, options, providers=providers or ["CPUExecutionProvider"])
            self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime has a class of its own for each kind of failure
            reason = " ".join(str(error).split())[:300]
            raise DamagedFile(self.path, "", f"onnxruntime cannot open it: {reason}") from error
        self.metadata.pop(DIGEST, None)
        self.spec: dict[str, Any] = read_json(self.metadata, SPEC)
        told = {entry["name"]: entry for entry in self.spec.get("inputs", [])}
        inputs = [_read_input(node, told.get(node.name, {})) for node in self.session.get_inputs()]
        outputs = [node.name for node in self.session.get_outputs()]
        states = {one.name: _next_state(one.name, outputs) for one in inputs}
        self.states = [one for one in inputs if states[one.name] is not None]
        self._next_names = [str(states[one.name]) for one in self.states]
        self.masks = next((one for one in inputs if one.name == _MASKS), None)
        self.observations = [one for one in inputs if one not in self.states and one is not self.masks]
        self._modes = _action_outputs(outputs, self.path)
        # Unity's files have flat actions; the environment takes its own shape.
        self._shape = self.spec["action"]["shape"] if self.spec.get("target") == "mlagents" else None
        self._state: State | None = None

    # ------------------------------------------------ SB3's face

    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, State | None]:
        """
        Choose actions, with the arguments of SB3's ``predict()``; nothing is remembered here.

        :param observation: raw observation of the environment, or a batch of them; a mapping of arrays for a Dict
        :param state: second thing that the last call gave; None at the start of an episode
        :param episode_start: True for rows whose episode begins now, which forget their state [B]
        :param deterministic: the most likely action; False draws one, for files that were exported with that
        :param action_masks: True or 1 for allowed choices; None allows all [B, L]
        :return: actions as the environment takes them, and the state for the next call (None without one)
        :raises InvalidArgument: when something does not fit the file
        """
        feeds, rows, single = self._batch(observation)
        if self.masks is not None:
            feeds[self.masks.name] = self._mask_rows(action_masks, rows)
        elif action_masks is not None:
            raise InvalidArgument(f"{self.path} takes no action_masks; export a model that was trained with masks")
        feeds.update(self._state_rows(state, episode_start, rows))
        names = self._mode(deterministic)
        results = self.session.run([*names, *self._next_names], feeds)
        actions, following = results[0], results[len(names) :]
        if len(names) > 1:  # hybrid actions, in one vector of float32
            actions = np.concatenate(results[: len(names)], axis=1, dtype=np.float32)
        if self._shape is not None:
            actions = actions.reshape(rows, *self._shape)
        return (actions[0] if single else actions), (tuple(following) if following else None)

    # ------------------------------------------------ a robot's face

    def act(self, observation: Any, deterministic: bool = True, action_masks: Any = None) -> np.ndarray:
        """
        Choose actions and remember the state for the next call.

        :param observation: raw observation of the environment, or a batch of them
        :param deterministic: the most likely action; False draws one
        :param action_masks: True or 1 for allowed choices; None allows all [B, L]
        :return: actions as the environment takes them
        """
        action, self._state = self.predict(observation, self._state, None, deterministic, action_masks)
        return action

    def reset(self, rows: Any = None) -> None:
        """
        Forget the state, when an episode begins.

        :param rows: which rows of the batch, as indices or as flags [B]; None for all
        """
        if rows is None or self._state is None:
            self._state = None
            return
        for one, array in zip(self.states, self._state, strict=True):
            np.moveaxis(array, one.batch_axis, 0)[np.asarray(rows)] = 0

    # ------------------------------------------------ inside

    def _mode(self, deterministic: bool) -> list[str]:
        names = self._modes[0 if deterministic else 1]
        if not names:
            raise InvalidArgument(f"{self.path} draws no actions; export it with stochastic=True (--stochastic)")
        return names

    def _batch(self, observation: Any) -> tuple[dict[str, np.ndarray], int, bool]:
        """Inputs by name, the number of rows, and whether there was one observation without a batch."""
        if isinstance(observation, Mapping):
            missing = [one.key or one.name for one in self.observations if (one.key or one.name) not in observation]
            if missing:
                raise InvalidArgument(f"the observation has {sorted(observation)}; {missing} are missing")
        elif len(self.observations) > 1:
            names = [one.key or one.name for one in self.observations]
            raise InvalidArgument(f"{self.path} takes a mapping with {names}, and got a {type(observation).__name__}")
        parts, counts = {}, set()
        single = False
        for one in self.observations:
            given = observation[one.key or one.name] if isinstance(observation, Mapping) else observation
            array = np.asarray(given)
            single = array.ndim == len(one.shape)
            if single:
                array = array[None]
            if one.channels_last:
                array = np.moveaxis(array, -1, 1)
            if array.shape[1:] != one.shape:
                raise InvalidArgument(
                    f"{one.name} has shape {np.asarray(given).shape}; {self.path} takes {one.shape} or a batch of it"
                )
            array = array if one.divide_by == 1.0 else array / one.divide_by
            parts[one.name] = np.ascontiguousarray(array, dtype=one.dtype)
            counts.add(len(array))
        if len(counts) != 1:
            raise InvalidArgument(f"the parts of the observation have different numbers of rows: {sorted(counts)}")
        return parts, counts.pop(), single

    def _mask_rows(self, action_masks: Any, rows: int) -> np.ndarray:
        assert self.masks is not None
        if action_masks is None:
            return np.ones((rows, *self.masks.shape), self.masks.dtype)
        given = np.asarray(action_masks)
        if given.size != rows * self.masks.shape[0]:
            raise InvalidArgument(f"action_masks has shape {given.shape}; there are [{rows}, {self.masks.shape[0]}]")
        return np.ascontiguousarray(given.reshape(rows, -1), dtype=self.masks.dtype)

    def _state_rows(self, state: State | None, episode_start: Any, rows: int) -> dict[str, np.ndarray]:
        if state is None:
            return {one.name: one.zeros(rows) for one in self.states}
        if len(state) != len(self.states):
            raise InvalidArgument(f"state has {len(state)} parts; {self.path} has {len(self.states)}")
        fed = {}
        for one, array in zip(self.states, state, strict=True):
            if array.shape != one.zeros(rows).shape:
                raise InvalidArgument(f"state {one.name} has shape {array.shape}, but there are {rows} rows")
            begins = None if episode_start is None else np.asarray(episode_start, bool).reshape(-1)
            if begins is not None and begins.any():
                array = array.copy()
                np.moveaxis(array, one.batch_axis, 0)[begins] = 0
            fed[one.name] = array
        return fed


def _read_input(node: Any, told: Mapping[str, Any]) -> Input:
    """An input as onnxruntime and the metadata describe it; the free axis is the one without a number."""
    free = [axis for axis, size in enumerate(node.shape) if not isinstance(size, int)]
    axis = free[0] if free else 0
    shape = tuple(int(size) for index, size in enumerate(node.shape) if index != axis)
    images = bool(told.get("channels_last", False)), float(told.get("divide_by", 1.0))
    return Input(node.name, told.get("key", ""), shape, axis, _TYPES.get(node.type, np.float32), *images)


def _next_state(name: str, outputs: list[str]) -> str | None:
    """Which output gives the next value of an input; None for an input that is no state."""
    following = name[: -len("_in")] + "_out"
    return following if name.endswith("_in") and following in outputs else None


def _action_outputs(outputs: list[str], path: Path) -> tuple[list[str], list[str]]:
    """Names of the most likely and of the drawn actions, in the layouts that are known; Unity has one for each kind."""
    if "actions" in outputs:
        return ["actions"], ["stochastic_actions"] if "stochastic_actions" in outputs else []
    drawn = [f"{kind}_actions" for kind in ("continuous", "discrete")]
    modes = [f"deterministic_{name}" for name in drawn if f"deterministic_{name}" in outputs]
    if modes:
        return modes, [name for name in drawn if name in outputs]
    raise InvalidArgument(f"{path} has the outputs {outputs} and none that is known as actions")
