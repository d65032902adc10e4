"""Whether ``torchrun`` has started this process, and how often."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sb3_ppo_plus.runs.ranks import Launch


def launch_of_this_process() -> Launch | None:
    """
    :return: what ``torchrun`` says in its variables, None for a process that was started otherwise
    """
    from sb3_ppo_plus.runs.ranks import Launch

    job = os.environ.get("TORCHELASTIC_RUN_ID")
    if job is None:
        return None
    # Without --rdzv-id every job is called "none"; its workers are children of one process, which outlives them.
    key = f"{socket.gethostname()}:{os.getppid()}" if job == "none" else job
    return Launch(key, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
