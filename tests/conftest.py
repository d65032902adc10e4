"""What holds for every test: one torch thread, pictures without a display. No global seed: tests pass theirs."""

from __future__ import annotations

import signal

import matplotlib
import pytest
import torch as th

from sb3_ppo_plus.cli.rendering import choose_mujoco_renderer

matplotlib.use("Agg")
# Networks here are tiny: a second thread costs more than it brings, and tests run side by side.
th.set_num_threads(1)
# Before anything imports mujoco; the processes of pytest-xdist inherit what is found here.
choose_mujoco_renderer()
# A shell lets what it runs in the background ignore Ctrl-C, and its children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: what takes longest; begun first, so that no process works on it alone at the end
FIRST = (
    "test_commands_of_the_readme_run",
    "test_python_blocks_run_from_top_to_bottom",
    "test_a_few_seconds_of_cartpole",
    "test_with_the_compiler",
    "test_a_suite_is_trained",
    "test_the_demo_trains",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first."""
    items.sort(key=lambda item: not item.name.startswith(FIRST))
