"""
Use this package where its own environments are not: other robotics suites, other versions of MuJoCo and protobuf.

Each suite gets a virtual environment of its own under .cache/suites, from requirements-<suite>.txt and this checkout.

    python tests/suites/run_suites.py                          # all of them, some minutes each
    python tests/suites/run_suites.py --suite dm-control --keep
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "suites"
PACKAGES = (
    "mujoco",
    "mujoco-mjx",
    "mujoco-warp",
    "warp-lang",
    "brax",
    "jax",
    "envpool",
    "gymnasium",
    "gymnasium-robotics",
    "dm_control",
    "shimmy",
    "mlagents-envs",
    "protobuf",
    "grpcio",
    "stable-baselines3",
    "torch",
    "numpy",
)
VERSIONS = f"""
from importlib.metadata import PackageNotFoundError, version
for name in {PACKAGES!r}:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""
# The argument is the version of MuJoCo that the message should name; "none" hides it.
WITHOUT_BATCH = """
import sys
found = sys.argv[1]
if found == "none":
    sys.modules["mujoco"] = None
from sb3_ppo_plus import PPOPlus
PPOPlus("MlpPolicy", "CartPole-v1", n_steps=128, n_epochs=2, seed=0, device="cpu").learn(256)
try:
    from sb3_ppo_plus.envs import MujocoVecEnv
except ImportError as error:
    missing = [word for word in ("pip install", "3.17", found) if word not in str(error)]
    sys.exit(f"the message lacks {missing}: {error}" if missing else 0)
sys.exit(f"MujocoVecEnv can be imported although MuJoCo is {found}")
"""


_PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "300")


class Environment:
    """
    A virtual environment with the requirements of a suite and this checkout.

    :param name: of the suite
    :param with_package: whether this checkout and all that it depends on is installed
    """

    def __init__(self, name: str, with_package: bool = True) -> None:
        self.with_package = with_package
        self.folder = CACHE / name
        self.requirements = HERE / f"requirements-{name}.txt"
        self.programs = self.folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.work = self.folder / "work"
        # Neither the checkout in sight nor the packages of this user: what is installed is what is used.
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.variables = {**kept, "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}

    def install(self) -> None:
        """Make it, unless it is there with the same requirements."""
        torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
        wanted = f"{self.requirements.read_text()}{torch}\n"
        done = self.folder / "installed.txt"
        if not done.is_file() or done.read_text() != wanted:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            (CACHE.parent / ".gitignore").write_text("*\n")
            (self.folder / "torch.txt").write_text(f"{torch}\n")
            self.run([sys.executable, "-m", "venv", str(self.folder / "venv")], ROOT)
            pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(self.folder / "torch.txt")]
            package = ["-e", str(ROOT)] if self.with_package else []
            self.python(*pip, "-r", str(self.requirements), *package, cwd=ROOT)
            done.write_text(wanted)
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def python(self, *words: str, cwd: Path | None = None) -> str:
        """
        :param words: arguments of this environment's Python
        :param cwd: current folder, None for a scratch folder
        :return: what it printed
        """
        return self.run([str(self.programs / "python"), *words], cwd or self.work)

    def ppo_plus(self, *words: str) -> str:
        """
        :param words: arguments of ``ppo-plus``
        :return: what it printed
        """
        return self.run([str(self.programs / "ppo-plus"), *words], self.work)

    def run(self, command: list[str], cwd: Path) -> str:
        """Run a command, say which, and raise at its failure."""
        print("$", *(word if "\n" not in word else "'...'" for word in command), flush=True)
        result = subprocess.run(
            command, cwd=cwd, env=self.variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        print(result.stdout, end="", flush=True)
        if result.returncode:
            raise RuntimeError(f"exit status {result.returncode}: {' '.join(command)}\n{result.stderr[-4000:]}")
        return result.stdout


def train_and_evaluate(suite: Environment, *words: str) -> None:
    """
    Train for a few thousand steps with one command, and evaluate what came of it.

    :param suite: where
    :param words: arguments of ``ppo-plus train``
    """
    runs = suite.work / "runs"
    suite.ppo_plus("train", *words, "-n", "4096", "--n-envs", "4", "--eval-episodes", "2", "--no-progress")
    (folder,) = runs.iterdir()
    if not (folder / "model.zip").is_file():
        raise RuntimeError(f"{folder} has no model.zip")
    answer = suite.ppo_plus("eval", str(folder), "--episodes", "2")
    found = re.search(r"^ *return +(\S+) ±", answer, re.MULTILINE)
    if found is None or not math.isfinite(float(found[1].replace(",", ""))):
        raise RuntimeError(f"no finite return in {answer!r}")


def gymnasium_robotics(suite: Environment) -> None:
    """A goal environment: its observations are a mapping."""
    train_and_evaluate(suite, "--env", "gymnasium_robotics:FetchReach-v4")


def dm_control(suite: Environment) -> None:
    """Observations are a mapping with single numbers in it, which SB3 takes only when they are flattened."""
    flatten = "env_wrapper=gymnasium.wrappers.FlattenObservation"
    train_and_evaluate(suite, "--env", "shimmy:dm_control/walker-walk-v0", "--set", flatten)


def oldest_mujoco(suite: Environment) -> None:
    """The tests of our own environments."""
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "300")
    suite.python(*pytest, "tests/parity/test_gymnasium_v5.py", "tests/contract", cwd=ROOT)


def adapter_of_jax(suite: Environment) -> None:
    """Environments in JAX: one written for the tests, Brax's own physics, and MuJoCo's."""
    suite.python(*_PYTEST, "-m", "", "tests/unit/test_adapters_jax.py", cwd=ROOT)


def adapter_of_envpool(suite: Environment) -> None:
    """EnvPool's environments in C++."""
    suite.python(*_PYTEST, "tests/unit/test_adapters_envpool.py", cwd=ROOT)


def engine_of_warp(suite: Environment) -> None:
    """MuJoCo-Warp on its CPU device: all that is tested of it without a GPU, and a run from the command line."""
    tests = ("tests/unit/test_warp_env.py", "tests/contract/test_warp_contract.py", "tests/parity/test_warp_parity.py")
    suite.python(*_PYTEST, "-m", "", *tests, "tests/gpu/test_warp_gpu.py", cwd=ROOT)
    train_and_evaluate(suite, "--env", "Hopper-v5", "--set", "env_kwargs.engine=warp")


def old_mujoco(suite: Environment) -> None:
    """All but our own environments works, and whoever asks for those is told what to install."""
    suite.python("-c", WITHOUT_BATCH, "3.3.7")
    suite.python("-c", WITHOUT_BATCH, "none")
    train_and_evaluate(suite, "--env", "HalfCheetah-v5")


def old_protobuf(suite: Environment) -> None:
    """Unity's messages, whose module needs nothing of the package (and its tests none of the other tests' settings)."""
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest")
    suite.python(*pytest, "tests/unit/test_unity_messages.py", cwd=ROOT)


SUITES: dict[str, Callable[[Environment], None]] = {
    "gymnasium-robotics": gymnasium_robotics,
    "dm-control": dm_control,
    "mujoco-3.17": oldest_mujoco,
    "old-mujoco": old_mujoco,
    "jax": adapter_of_jax,
    "envpool": adapter_of_envpool,
    "warp": engine_of_warp,
    "protobuf-3": old_protobuf,
    "protobuf-4": old_protobuf,
    "protobuf-5": old_protobuf,
    "protobuf-6": old_protobuf,
}


def check(name: str, keep: bool) -> tuple[str, str]:
    """
    Install a suite and use it.

    :param name: of the suite
    :param keep: leave its environment for the next time
    :return: ``ok`` or ``FAILED``, and the versions it used
    """
    print(f"\n=== {name}", flush=True)
    suite = Environment(name, with_package=SUITES[name] is not old_protobuf)
    outcome, versions = "ok", ""
    try:
        suite.install()
        versions = ", ".join(suite.python("-c", VERSIONS).split("\n")[:-1])
        SUITES[name](suite)
    except (RuntimeError, OSError, ValueError) as failed:
        print(failed, flush=True)
        outcome = "FAILED"
    if not keep:
        shutil.rmtree(suite.folder, ignore_errors=True)
    return outcome, versions


def main() -> int:
    """
    Run the suites.

    :return: exit status
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", choices=list(SUITES), help="only this one (may be repeated)")
    parser.add_argument("--keep", action="store_true", help="leave the environments in .cache/suites for the next time")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.suite or SUITES:
        started = time.perf_counter()
        outcome, versions = check(name, arguments.keep)
        rows.append((name, outcome, f"{time.perf_counter() - started:.0f} s", versions))
    print("\n| suite | result | time | versions |\n|---|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return int(any(outcome != "ok" for _, outcome, _, _ in rows))


if __name__ == "__main__":
    raise SystemExit(main())
