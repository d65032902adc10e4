"""
The graph that Unity's ML-Agents package loads: model format 3, for packages 2.0 to 4.x.

Names and meanings are those of ``TensorNames.cs`` and ``BarracudaModelParamLoader.cs`` / ``SentisModelParamLoader.cs``.
Unity applies no scaling: what the game receives is what comes out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space

from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.graph import BATCH, PolicyGraph, Port, Wanted
from sb3_ppo_plus.export.heads import Categorical, branch_sizes
from sb3_ppo_plus.export.metadata import require
from sb3_ppo_plus.export.stages import ChannelsFirst, FrameStack, Stage, parts_of

VERSION = 3


class UnityGraph(PolicyGraph):
    """
    Observations as Unity's sensors give them, one input each in their order; drawn and most likely actions.

    :param model: trained model
    :param space: space of the raw observations, a Box or a Dict of Boxes in the order of the sensors
    :param stages: what happens to them before the policy
    :raises InvalidArgument: when Unity has nothing that corresponds
    """

    def __init__(self, model: BaseAlgorithm, space: spaces.Space, stages: Sequence[Stage]) -> None:
        strange = [key or "obs" for key, part in parts_of(space).items() if not isinstance(part, spaces.Box)]
        if strange:
            raise InvalidArgument(f"Unity's sensors give numbers and images only; {', '.join(strange)} is neither")
        if any(isinstance(stage, FrameStack) for stage in stages):
            raise InvalidArgument(
                "a frame stack cannot go into a file for Unity; set the stack of the sensor "
                "instead, and train without VecFrameStack"
            )
        super().__init__(model, space, stages, Wanted(stochastic=True))
        action = self.policy.action_space
        hybrid = isinstance(action, HybridSpace)
        self.branches = branch_sizes(action) if hybrid or not isinstance(action, spaces.Box) else ()
        self.n_continuous = action.n_continuous if hybrid else 0 if self.branches else int(np.prod(action.shape))
        if not self.branches:
            self.head.shape = (self.n_continuous,)
        elif isinstance(self.head, Categorical):
            self.head = Categorical(self.branches, False, (len(self.branches),))
        elif not hybrid:
            # MultiBinary: each bit is a branch of two, whose logits are 0 and the bit's own.
            self.head = Bits(len(self.branches))
        self.memory_size = sum(2 * lstm.num_layers * lstm.hidden_size for lstm in self.lstms.values())
        self.remarks = self._describe_images()
        self.constants = {"version_number": [VERSION], "memory_size": [self.memory_size]}
        if self.n_continuous:
            self.constants["continuous_action_output_shape"] = [self.n_continuous]
        if self.branches:
            self.constants["discrete_action_output_shape"] = [list(self.branches)]
        self.inputs = self._unity_inputs()
        self.outputs = self._unity_outputs()

    def _describe_images(self) -> dict[str, dict[str, Any]]:
        """How a raw observation of Python's environment becomes what Unity's sensor gives: channels first, 0 to 1."""
        last = {key for stage in self.stages if isinstance(stage, ChannelsFirst) for key in stage.keys}
        remarks = {}
        for index, (key, part) in enumerate(parts_of(self.space).items()):
            bytes_ = part.dtype == np.uint8 and is_image_space(part, check_channels=False)
            remark = {"channels_last": key in last, "divide_by": 255.0 if bytes_ else 1.0}
            if remark != {"channels_last": False, "divide_by": 1.0}:
                remarks[f"obs_{index}"] = remark
        return remarks

    def _unity_inputs(self) -> list[Port]:
        ports = []
        for index, (key, part) in enumerate(parts_of(self.space).items()):
            shape = tuple(part.shape or ())
            if self.remarks.get(f"obs_{index}", {}).get("channels_last"):
                shape = (shape[2], *shape[:2])
            ports.append(Port(f"obs_{index}", "observation", (BATCH, *shape), th.float32, key))
        if self.branches:
            ports.append(Port("action_masks", "mask", (BATCH, sum(self.branches)), th.float32))
        if self.memory_size:
            ports.append(Port("recurrent_in", "state", (BATCH, 1, self.memory_size), th.float32, "recurrent_out"))
        return ports

    def _unity_outputs(self) -> list[Port]:
        ports = []
        for kind, width, dtype in (
            ("continuous", self.n_continuous, th.float32),
            ("discrete", len(self.branches), th.int64),
        ):
            if width:
                ports.append(Port(f"{kind}_actions", "stochastic_actions", (BATCH, width), dtype))
                ports.append(Port(f"deterministic_{kind}_actions", "actions", (BATCH, width), dtype))
        if self.memory_size:
            ports.append(Port("recurrent_out", "state", (BATCH, 1, self.memory_size), th.float32))
        return ports

    def forward(self, *tensors: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param tensors: one per input, in the order of ``inputs``
        :return: one per output, in the order of ``outputs``
        """
        given = dict(zip((port.name for port in self.inputs), tensors, strict=True))
        sensors = [port for port in self.inputs if port.role == "observation"]
        obs = {port.key: self._as_in_python(port.name, given[port.name]) for port in sensors}
        recurrent = self._split_memory(given["recurrent_in"]) if self.memory_size else []
        result = self.act(obs, given.get("action_masks"), recurrent, {})
        found: list[th.Tensor] = []
        for part in result.actions.parts or (result.actions,):
            assert part.sample is not None
            found += [part.sample, part.mode]
        if self.memory_size:
            found.append(th.cat([state.transpose(0, 1).flatten(1) for state in result.recurrent], dim=1).unsqueeze(1))
        return tuple(found)

    def _as_in_python(self, name: str, tensor: th.Tensor) -> th.Tensor:
        remark = self.remarks.get(name)
        if remark is None:
            return tensor
        tensor = tensor * remark["divide_by"] if remark["divide_by"] != 1.0 else tensor
        return tensor.permute(0, 2, 3, 1) if remark["channels_last"] else tensor

    def _split_memory(self, memory: th.Tensor) -> list[th.Tensor]:
        """[B, 1, M] to hidden and cell state of each LSTM [layers, B, H]."""
        flat, states, start = memory.squeeze(1), [], 0
        for lstm in self.lstms.values():
            for _ in range(2):
                layers = []
                for _ in range(lstm.num_layers):
                    layers.append(flat[:, start : start + lstm.hidden_size])
                    start += lstm.hidden_size
                states.append(th.stack(layers))
        return states


class Bits(th.nn.Module):
    """
    MultiBinary actions as branches of two.

    :param n: number of bits
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.branches = Categorical((2,) * n, False, (n,))

    def forward(self, out: th.Tensor, latent: th.Tensor, masks: th.Tensor | None, sample: bool) -> Any:
        """
        :param out: logit of each bit [B, A]
        :param latent: not used
        :param masks: 1 for allowed, 0 for forbidden [B, 2 * A]
        :param sample: whether drawn actions are wanted
        :return: actions
        """
        pairs = th.stack([th.zeros_like(out), out], dim=2).flatten(1)
        return self.branches(pairs, latent, masks, sample)


def add_constants(model: Any, graph: UnityGraph) -> Any:
    """
    Add the outputs that tell Unity what the model is.

    Each is an initializer whose name is the output's, as in Unity's own test models; every package finds these.

    :param model: ``onnx.ModelProto``
    :param graph: what it was made from
    :return: the same model
    """
    onnx = require("onnx")
    for name, value in graph.constants.items():
        array = np.array(value, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))
    onnx.checker.check_model(model, full_check=True)
    return model
