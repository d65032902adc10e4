"""
Unity games: agent steps per second with 1, 2 and 4 workers, and beside ML-Agents' own low-level API.

    python benchmarks/unity_speed.py        # prints the tables and writes benchmarks/results/unity_speed.md

The games are the stand-in of tests/unity_player, which is not Unity: a small Python program. What is measured is the
Python side, the socket and the overlap of workers. Nothing here says how fast a Unity game is. A scene that "takes 5
ms" sleeps that long before each exchange, as a game would compute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from common import commit, machine, median_and_spread, results_file

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.envs import UnityVecEnv
from sb3_ppo_plus.envs.unity.messages import install

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unity_player"))

from build import free_port, make_build

PACKAGES = ("numpy", "stable-baselines3", "mlagents-envs", "grpcio", "protobuf")
WORKERS = (1, 2, 4)
#: name -> scene and options of the stand-in, the same number of agents in each worker
SCENES: dict[str, tuple[str, dict[str, Any]]] = {
    "12 agents, 7 floats": ("echo", {"agents": 12, "actions": "continuous"}),
    "12 agents, 7 floats, takes 5 ms": ("echo", {"agents": 12, "actions": "continuous", "slow": 0.005}),
    "100 agents, 7 floats": ("echo", {"agents": 100, "actions": "continuous"}),
    "12 agents, image 20 x 20 as floats": ("grid", {"agents": 12}),
    "12 agents, image 20 x 20 as PNG": ("grid", {"agents": 12, "png": True}),
}
Step = Callable[[], int]


def ours(folder: Path, scene: str, n_workers: int, stack: ExitStack) -> Step:
    """A step of a UnityVecEnv; gives the number of agents that acted."""
    name, options = SCENES[scene]
    env = UnityVecEnv(
        make_build(folder, name, f"ours{n_workers}", **options), n_workers=n_workers, graphics=False, seed=0
    )
    stack.callback(env.close)
    env.reset()
    actions = np.zeros((env.num_envs, *(env.action_space.shape or ())), env.action_space.dtype)

    def step() -> int:
        env.step_arrays(actions)
        return env.num_envs

    return step


def theirs(folder: Path, scene: str, stack: ExitStack) -> Step:
    """A step of ML-Agents' UnityEnvironment: the decisions of its only behavior, and no bookkeeping of episodes."""
    install()
    from mlagents_envs.environment import UnityEnvironment
    from mlagents_envs.side_channel.engine_configuration_channel import EngineConfigurationChannel

    name, options = SCENES[scene]
    channel = EngineConfigurationChannel()
    build = make_build(folder, name, "theirs", **options)
    env = UnityEnvironment(
        str(build), base_port=free_port(), seed=0, no_graphics=True, side_channels=[channel], timeout_wait=20
    )
    channel.set_configuration_parameters(time_scale=20.0)
    stack.callback(env.close)
    env.reset()
    (behavior,) = env.behavior_specs

    def step() -> int:
        decisions, _ = env.get_steps(behavior)
        env.set_actions(behavior, env.behavior_specs[behavior].action_spec.empty_action(len(decisions)))
        env.step()
        return len(decisions)

    return step


def measure(steps: dict[str, Step], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Agent steps per second of each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            n_agents, begun = 0, time.perf_counter()
            while (now := time.perf_counter()) - begun < seconds:
                n_agents += step()
            found[name].append(n_agents / (now - begun))
    return found


def table(rounds: int, seconds: float) -> list[str]:
    """Measure everything; lines of Markdown."""
    head = "| game | ML-Agents' API, 1 worker | 1 worker | ratio | 2 workers | ratio to 1 | 4 workers | ratio to 1 |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for scene in SCENES:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            steps = {"theirs": theirs(folder, scene, stack)}
            steps |= {str(n): ours(folder, scene, n, stack) for n in WORKERS}
            found = measure(steps, rounds, seconds)
        ratios = {n: median_and_spread(np.divide(found[str(n)], found["1"]).tolist()) for n in WORKERS}
        beside = median_and_spread(np.divide(found["1"], found["theirs"]).tolist())
        speeds = {name: median_and_spread(values)[0] for name, values in found.items()}
        cells = [scene, f"{speeds['theirs']:,.0f}", f"{speeds['1']:,.0f}", f"**{beside[0]:.2f}** ± {beside[1]:.0f} %"]
        for n in WORKERS[1:]:
            cells += [f"{speeds[str(n)]:,.0f}", f"**{ratios[n][0]:.2f}** ± {ratios[n][1]:.0f} %"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    rounds, seconds = (1, 0.1) if args.quick else (args.rounds, args.seconds)
    lines = table(rounds, seconds)
    text = "\n".join(
        [
            "# Unity games, Python's side",
            "",
            f"`python benchmarks/unity_speed.py`: agent steps per second (one action of one agent), median of {rounds} "
            f"rounds of {seconds:g} s in turns; ratios are medians over rounds, ± half of their range.",
            "The games are a stand-in in Python, not Unity, and run on the same processors: only where the game takes "
            "time of its own do workers overlap as they would with real games.",
            "",
            *lines,
            "",
            f"Commit {commit()}; {machine(PACKAGES)}.",
            "",
        ]
    )
    with results_file(args.out, "unity_speed.md", args.quick) as path:
        atomic_write(path, text)


if __name__ == "__main__":
    main()
