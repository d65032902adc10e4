"""Several processes that learn one policy, on one machine or many. See docs/distributed.md."""

from sb3_ppo_plus.distributed.joining import current_ranks, join
from sb3_ppo_plus.distributed.ranks import Ranks

__all__ = ["Ranks", "current_ranks", "join"]
