"""A policy and its optimizer as they were."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy


class ParameterCopy:
    """
    A copy of a policy and its optimizer that is cheap to take again and again.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self._copies: list[th.Tensor] = []
        self._found: tuple[tuple[int, int], list[th.Tensor]] | None = None

    def take(self) -> None:
        """Copy them as they are."""
        live = self._live()
        if [tensor.shape for tensor in live] != [tensor.shape for tensor in self._copies]:
            self._copies = [th.empty_like(tensor) for tensor in live]
        with th.no_grad():
            th._foreach_copy_(self._copies, live)

    def restore(self) -> None:
        """Put everything back; an optimizer that had taken no step gets to that again."""
        live = self._live()
        if len(live) > len(self._copies):
            self.policy.optimizer.state.clear()
            live = self._live()
        with th.no_grad():
            th._foreach_copy_(live, self._copies)

    def _live(self) -> list[th.Tensor]:
        """Looked for again when the optimizer has other tensors, as after its first step."""
        state = self.policy.optimizer.state
        first: dict[str, Any] = next(iter(state.values()), {})
        key = len(state), id(next((value for value in first.values() if isinstance(value, th.Tensor)), None))
        if self._found is None or self._found[0] != key:
            self._found = key, self._find()
        return self._found[1]

    def _find(self) -> list[th.Tensor]:
        policy = self.policy
        tensors = [*policy.parameters(), *policy.buffers()]
        state = policy.optimizer.state
        for parameter in policy.parameters():
            tensors += [value for _, value in sorted(state.get(parameter, {}).items()) if isinstance(value, th.Tensor)]
        return [tensor.detach() for tensor in tensors]
