"""All rules over the history of a run, and the one over its settings."""

from sb3_ppo_plus.doctor.rules import critic, data, exploration, networks, outcome, steps
from sb3_ppo_plus.doctor.rules.configuration import check_settings
from sb3_ppo_plus.doctor.rules.grading import Rule

RULES: tuple[Rule, ...] = (
    *data.RULES,
    *steps.RULES,
    *exploration.RULES,
    *critic.RULES,
    *networks.RULES,
    *outcome.RULES,
)

__all__ = ["RULES", "Rule", "check_settings"]
