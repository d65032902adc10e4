"""What holds for every test: one torch thread, pictures without a display. No global seed: tests pass theirs."""

from __future__ import annotations

import matplotlib
import torch as th

from sb3_ppo_plus.cli.rendering import choose_mujoco_renderer

matplotlib.use("Agg")
# Networks here are tiny: a second thread costs more than it brings, and tests run side by side.
th.set_num_threads(1)
# Before anything imports mujoco; the processes of pytest-xdist inherit what is found here.
choose_mujoco_renderer()
