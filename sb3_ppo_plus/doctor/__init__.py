"""The doctor: what is wrong with a PPO training, why, and which argument to change."""

from sb3_ppo_plus.doctor.callback import DoctorCallback
from sb3_ppo_plus.doctor.findings import Finding, Severity
from sb3_ppo_plus.doctor.run_folder import Examination, examine_run

__all__ = ["DoctorCallback", "Examination", "Finding", "Severity", "examine_run"]
