"""A policy from the raw observation to the command, as one module whose inputs and outputs are those of the file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.heads import Actions, branch_sizes, make_head, takes_masks
from sb3_ppo_plus.export.stages import WHOLE, FrameStack, Parts, Stage, carrier, parts_of
from sb3_ppo_plus.plain_policy import make_preprocessor

BATCH = "batch"
_BASES = (RecurrentActorCriticPolicy, MaskableActorCriticPolicy, ActorCriticPolicy)
# What predict() is made of; a policy that overrides one of these acts differently from the graph built here.
_OWN_METHODS = ("predict", "_predict", "get_distribution", "extract_features", "_get_action_dist_from_latent")
_RESERVED = {"actions", "logits", "stochastic_actions", "values", "action_masks"}


@dataclass(frozen=True)
class Port:
    """
    One input or output of the graph.

    :param name: its name in the file
    :param role: observation, mask, state, actions, stochastic_actions, logits, values
    :param shape: one entry per axis, :data:`BATCH` for the free one
    :param dtype: type of its numbers
    :param key: which part of a Dict observation; for a state, the name of the output that gives the next one
    """

    name: str
    role: str
    shape: tuple[int | str, ...]
    dtype: th.dtype
    key: str = ""

    @property
    def batch_axis(self) -> int:
        """The axis that is free."""
        return self.shape.index(BATCH)

    def example(self, rows: int) -> th.Tensor:
        """
        :param rows: B
        :return: a tensor of this shape; masks allow everything, all else is zero
        """
        shape = [rows if axis == BATCH else int(axis) for axis in self.shape]
        return th.ones(shape, dtype=self.dtype) if self.role == "mask" else th.zeros(shape, dtype=self.dtype)

    def describe(self) -> dict[str, Any]:
        """
        :return: as a mapping for the metadata
        """
        plain = {"name": self.name, "role": self.role, "shape": list(self.shape), "dtype": str(self.dtype)[6:]}
        return {**plain, **({"key": self.key} if self.key else {})}


@dataclass(frozen=True)
class Wanted:
    """
    What goes into the file beside the most likely action.

    :param stochastic: actions drawn from the policy
    :param values: the critic's opinion
    """

    stochastic: bool = False
    values: bool = False


@dataclass
class Result:
    """What one pass gives, before it becomes a list of outputs."""

    actions: Actions
    values: th.Tensor | None
    memory: Parts = field(default_factory=dict)
    recurrent: list[th.Tensor] = field(default_factory=list)


class PolicyGraph(th.nn.Module):
    """
    Raw observations in, commands out.

    :param model: trained model of PPOPlus, PPO, A2C, MaskablePPO or RecurrentPPO; it is not changed
    :param space: space of the raw observations
    :param stages: what happens to them before the policy
    :param wanted: optional outputs
    :raises InvalidArgument: when the policy does not act as SB3's policies do
    """

    def __init__(
        self, model: BaseAlgorithm, space: spaces.Space, stages: Sequence[Stage], wanted: Wanted = Wanted()
    ) -> None:
        super().__init__()
        check_policy(model)
        policy: Any = copy_policy(model.policy)
        self.policy = policy
        self.space, self.wanted = space, wanted
        self.stages = th.nn.ModuleList(stages)
        self.head: Any = make_head(policy)
        self.preprocess = make_preprocessor(policy.observation_space, policy.normalize_images)
        self.masked = takes_masks(model)
        #: input -> what else the metadata has to say about it
        self.remarks: dict[str, dict[str, Any]] = {}
        #: outputs that never change, written after the traced ones
        self.constants: dict[str, list[Any]] = {}
        self.lstms = recurrent_parts(policy, wanted.values)
        self.inputs = self._observation_ports() + self._mask_ports() + self._state_ports()
        self.outputs = self._output_ports()

    # ------------------------------------------------ names and shapes

    def _observation_ports(self) -> list[Port]:
        taken = _RESERVED | {name for name in parts_of(self.space) if name.endswith(("_in", "_out"))}
        ports = []
        for key, part in parts_of(self.space).items():
            name = "obs" if key == WHOLE else f"obs_{key}" if key in taken else key
            ports.append(Port(name, "observation", (BATCH, *(part.shape or ())), carrier(part), key))
        return ports

    def _mask_ports(self) -> list[Port]:
        width = sum(branch_sizes(self.policy.action_space)) if self.masked else 0
        return [Port("action_masks", "mask", (BATCH, width), th.float32)] if self.masked else []

    def _state_ports(self) -> list[Port]:
        ports = []
        for prefix, lstm in self.lstms.items():
            layers = (lstm.num_layers, BATCH, lstm.hidden_size)
            ports += [Port(f"{prefix}{n}_in", "state", layers, th.float32, f"{prefix}{n}_out") for n in ("h", "c")]
        for key, (shape, dtype) in self.memory.items():
            suffix = f"_{key}" if key else ""
            ports.append(Port(f"frames{suffix}_in", "state", (BATCH, *shape), dtype, f"frames{suffix}_out"))
        return ports

    @property
    def memory(self) -> dict[str, tuple[tuple[int, ...], th.dtype]]:
        """What the stages remember."""
        return next((stage.memory for stage in self.stages if isinstance(stage, FrameStack)), {})

    def _output_ports(self) -> list[Port]:
        space = self.policy.action_space
        box = isinstance(space, spaces.Box)
        shape = (BATCH, *(space.shape or ()))
        dtype = th.float32 if box else th.int64
        ports = [Port("actions", "actions", shape, dtype)]
        if not box or isinstance(space, HybridSpace):
            continuous = space.n_continuous if isinstance(space, HybridSpace) else 0
            width = int(self.policy.action_net.out_features) - continuous
            ports.append(Port("logits", "logits", (BATCH, width), th.float32))
        if self.wanted.stochastic:
            ports.append(Port("stochastic_actions", "stochastic_actions", shape, dtype))
        if self.wanted.values:
            ports.append(Port("values", "values", (BATCH,), th.float32))
        ports += [Port(port.key, "state", port.shape, port.dtype) for port in self.inputs if port.role == "state"]
        return ports

    # ------------------------------------------------ the pass

    def forward(self, *tensors: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param tensors: one per input, in the order of ``inputs``
        :return: one per output, in the order of ``outputs``
        """
        given = dict(zip((port.name for port in self.inputs), tensors, strict=True))
        obs = {port.key: given[port.name] for port in self.inputs if port.role == "observation"}
        remembered = [given[port.name] for port in self.inputs if port.role == "state"]
        n_recurrent = 2 * len(self.lstms)
        memory = dict(zip(self.memory, remembered[n_recurrent:], strict=True))
        result = self.act(obs, given.get("action_masks"), remembered[:n_recurrent], memory)
        actions = result.actions
        optional = (actions.logits, actions.sample, result.values)
        kept = [tensor for tensor in optional if tensor is not None]
        return (actions.mode, *kept, *result.recurrent, *result.memory.values())

    def act(self, obs: Parts, masks: th.Tensor | None, recurrent: Sequence[th.Tensor], memory: Parts) -> Result:
        """
        :param obs: raw observation by key [B, ...]
        :param masks: 1 for allowed, 0 for forbidden [B, L]
        :param recurrent: hidden and cell state of each LSTM [layers, B, H]
        :param memory: frames of the steps before, by key [B, ...]
        :return: actions, values, and the next states
        """
        for stage in self.stages:
            obs, memory = stage(obs, memory)
        inputs = self.preprocess(obs if isinstance(self.policy.observation_space, spaces.Dict) else obs[WHOLE])
        latent, states = self._through("", self.policy.pi_features_extractor(inputs), recurrent)
        values = self._values(inputs, latent, recurrent, states) if self.wanted.values else None
        latent_pi = self.policy.mlp_extractor.forward_actor(latent)
        actions = self.head(self.policy.action_net(latent_pi), latent_pi, masks, self.wanted.stochastic)
        return Result(actions, values, memory, states)

    def _through(
        self, prefix: str, features: th.Tensor, recurrent: Sequence[th.Tensor]
    ) -> tuple[th.Tensor, list[th.Tensor]]:
        """One step of an LSTM, or nothing where there is none."""
        if prefix not in self.lstms:
            return features, []
        first = 2 * list(self.lstms).index(prefix)
        out, (hidden, cell) = self.lstms[prefix](features.unsqueeze(0), (recurrent[first], recurrent[first + 1]))
        return out.squeeze(0), [hidden, cell]

    def _values(
        self, inputs: Any, latent_pi: th.Tensor, recurrent: Sequence[th.Tensor], states: list[th.Tensor]
    ) -> th.Tensor:
        policy = self.policy
        latent = policy.vf_features_extractor(inputs)
        if "critic_" in self.lstms:
            latent, more = self._through("critic_", latent, recurrent)
            states += more
        elif self.lstms:
            latent = latent_pi if policy.shared_lstm else policy.critic(latent)
        return policy.value_net(policy.mlp_extractor.forward_critic(latent)).flatten()


def recurrent_parts(policy: Any, values: bool) -> dict[str, th.nn.LSTM]:
    """
    :param policy: policy of SB3 or sb3-contrib
    :param values: whether the critic's LSTM counts too
    :return: LSTMs by the prefix of their states' names
    """
    if not isinstance(policy, RecurrentActorCriticPolicy):
        return {}
    critic = {"critic_": policy.lstm_critic} if values and policy.lstm_critic is not None else {}
    return {"": policy.lstm_actor, **critic}


def check_policy(model: BaseAlgorithm) -> None:
    """
    Look whether a model acts the way SB3's policies do; its networks may be anything.

    :param model: trained model
    :raises InvalidArgument: saying what is different
    """
    policy = model.policy
    base = next((base for base in _BASES if isinstance(policy, base)), None)
    if base is None:
        raise InvalidArgument(
            f"{type(model).__name__} with {type(policy).__name__} cannot be exported; the exporter knows the "
            "policies of PPOPlus, PPO, A2C, TRPO, MaskablePPO and RecurrentPPO"
        )
    for name in _OWN_METHODS:
        if getattr(type(policy), name) is not getattr(base, name):
            raise InvalidArgument(
                f"{type(policy).__name__} overrides {name}(), so the exporter cannot know how it acts; put what is "
                "special into the features extractor or the mlp_extractor, which are exported whatever they are"
            )


def copy_policy(policy: Any) -> Any:
    """
    :param policy: policy
    :return: a copy on the processor that acts as in evaluation
    """
    # Neither is exported, and the distribution of the last rollout may hold tensors that cannot be copied.
    shared = {id(part): part for part in (policy.action_dist, policy.optimizer)}
    copied = copy.deepcopy(policy, shared).to("cpu")
    copied.set_training_mode(False)
    return copied


def raw_batch(port: Port, obs: Any) -> np.ndarray:
    """
    :param port: input of the graph
    :param obs: observations as the environment gave them, an array or a mapping of arrays
    :return: the part for this input
    """
    part = obs[port.key] if isinstance(obs, dict) else obs
    return np.asarray(part).astype(str(port.dtype)[6:])
