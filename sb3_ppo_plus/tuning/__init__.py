"""Tuning: studies with Optuna, their workers, the confirmation of what they found, and reports."""
