"""Checkpoints from which a training goes on as if it had never stopped. See docs/resume.md."""

from sb3_ppo_plus.checkpoint.api import CannotSave, resume, save_checkpoint
from sb3_ppo_plus.checkpoint.logs import open_log
from sb3_ppo_plus.checkpoint.saving import SaveCheckpoints, checkpoints_in
from sb3_ppo_plus.checkpoint.signals import Preempted
from sb3_ppo_plus.errors import DamagedFile

__all__ = [
    "CannotSave",
    "DamagedFile",
    "Preempted",
    "SaveCheckpoints",
    "checkpoints_in",
    "open_log",
    "resume",
    "save_checkpoint",
]
