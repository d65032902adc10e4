"""The state of a training that is spread over several ranks, in one file, and each rank's share of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_ppo_plus.checkpoint.generators import generator_states
from sb3_ppo_plus.checkpoint.state import TrainingState
from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.distributed.trees import pack, unpack
from sb3_ppo_plus.errors import InvalidArgument

# In the tree of rank 0: those of the other ranks.
_OTHERS = "ranks"


def gather_states(ranks: Ranks, state: TrainingState) -> TrainingState | None:
    """
    Bring the states of all ranks to rank 0.

    :param ranks: the processes
    :param state: this rank's
    :return: on rank 0 its state, with those of the others in it; None on the others
    :raises InvalidArgument: on rank 0, when a rank's state holds what is no plain data
    """
    try:
        content = b"" if ranks.is_first else pack({"tree": state.tree, "inexact": state.inexact})
    except InvalidArgument as error:
        content = pack({"error": str(error)})
    everyone = ranks.bytes_to_first(content)
    if not ranks.is_first:
        return None
    others = [unpack(each) for each in everyone[1:]]
    inexact = list(state.inexact)
    for rank, other in enumerate(others, start=1):
        if "error" in other:
            raise InvalidArgument(f"rank {rank}: {other['error']}")
        inexact += [f"rank {rank}: {reason}" for reason in other["inexact"] if reason not in state.inexact]
    return TrainingState({**state.tree, _OTHERS: [other["tree"] for other in others]}, inexact)


def own_share(tree: Mapping[str, Any], ranks: Ranks | None) -> tuple[Mapping[str, Any], list[str]]:
    """
    Find what a rank goes on from; call it where the generators stand as a new rank is to begin.

    :param tree: tree of a checkpoint
    :param ranks: the processes, None for one alone
    :return: tree of this rank, and why going on is not exact
    """
    saved = [tree, *tree.get(_OTHERS, ())]
    rank, size = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    if len(saved) == size:
        return saved[rank], []
    reasons = [f"{len(saved)} ranks have saved it and {size} go on"]
    if rank < len(saved):
        return saved[rank], reasons
    # A rank that was not there has environments of its own, at the beginning of an episode.
    nothing = dict.fromkeys(("env", "last_obs", "last_original_obs", "last_episode_starts"))
    return {**tree, **nothing, "generators": generator_states()}, reasons
