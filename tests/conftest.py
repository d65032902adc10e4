"""What holds for every test: one torch thread, a plot backend without a display. No global seed: tests pass theirs."""

from __future__ import annotations

import matplotlib
import torch as th

matplotlib.use("Agg")
# Networks here are tiny: a second thread costs more than it brings, and tests run side by side.
th.set_num_threads(1)
