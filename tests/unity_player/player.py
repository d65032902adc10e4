"""A stand-in for a Unity game; see README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from academy import Academy
from failing import Trouble
from scenes import SCENES
from wire import Game, Wire


def read_options() -> argparse.Namespace:
    """Read the command line; what Unity's player would take besides is ignored."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mlagents-port", type=int, required=True)
    parser.add_argument("--scene", choices=sorted(SCENES), required=True)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--periods", type=lambda text: [int(part) for part in text.split(",")], default=[1])
    parser.add_argument("--actions", default="hybrid", choices=("hybrid", "continuous", "branch", "branches"))
    parser.add_argument("--layout", default="chw", choices=("chw", "hwc"))
    parser.add_argument("--png", action="store_true")
    parser.add_argument("--max-step", type=int, default=1000)
    parser.add_argument("--package-version", default="3.0.0")
    parser.add_argument("--communication-version", default="1.5.0")
    parser.add_argument("--player-log", default=None)
    Trouble.add_options(parser)
    return parser.parse_known_args()[0]


def main() -> None:
    """Play until Python says that it is over, or is gone."""
    options = read_options()
    game = Game(options.player_log)
    trouble = Trouble(options)
    wire = Wire(options, game, trouble)
    seed = wire.introduce()
    scene = SCENES[options.scene](options, np.random.default_rng(seed), game)
    phases = iter(["reset"])
    academy = Academy(scene, lambda agents: wire.send(agents, next(phases, "step")))
    academy.reset()
    while True:
        academy.step()


if __name__ == "__main__":
    main()
