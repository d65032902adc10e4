"""How far float32 itself carries a network from its own float64 twin: what no file can be blamed for."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ppo_plus.export.graph import PolicyGraph, raw_batch

logger = logging.getLogger(__name__)


class Twins:
    """
    A policy in float32 and in float64.

    :param model: trained model
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        assert model.observation_space is not None
        self.single = PolicyGraph(model, model.observation_space, [])
        self.double = PolicyGraph(model, model.observation_space, []).double()
        preprocess = self.single.preprocess
        self.double.preprocess = lambda obs: _doubled(preprocess(obs))

    def measure(self, seen: Any, masks: np.ndarray | None) -> float:
        """
        :param seen: observations as the policy sees them [B, ...]
        :param masks: allowed actions, None for a policy without masks [B, L]
        :return: largest difference between the two, of actions or of logits, over max(1, magnitude); 0 for networks
            that insist on float32
        """
        try:
            one, other = (self._outputs(graph, seen, masks) for graph in (self.single, self.double))
        except (RuntimeError, TypeError, ValueError) as error:
            logger.debug("no float64 twin: %s", error)
            return 0.0
        return float(((one - other).abs() / other.abs().clamp(min=1.0)).max())

    def _outputs(self, graph: PolicyGraph, seen: Any, masks: np.ndarray | None) -> th.Tensor:
        kind = th.float64 if graph is self.double else th.float32
        observations = [port for port in graph.inputs if port.role == "observation"]
        obs = {port.key: th.from_numpy(raw_batch(port, seen)) for port in observations}
        rows = len(next(iter(obs.values())))
        states = [port.example(rows).to(kind) for port in graph.inputs if port.role == "state"]
        allowed = None if masks is None else th.as_tensor(masks, dtype=kind)
        with th.no_grad():
            actions = graph.act(obs, allowed, states, {}).actions
        if actions.parts is not None:
            return th.cat([part.mode if part.logits is None else part.logits for part in actions.parts], dim=1).double()
        return (actions.mode if actions.logits is None else actions.logits).double()


def _doubled(inputs: Any) -> Any:
    return {key: part.double() for key, part in inputs.items()} if isinstance(inputs, dict) else inputs.double()
