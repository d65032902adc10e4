"""
Build the wheel and use it as a stranger would: a fresh environment, outside the checkout, nothing but the wheel.

    python .ci/wheel_smoke.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ("benchmark_suites", "gallery", "tuning", "zoo_configs")
PATTERNS = ("*.yml", "*.md", "*.zip", "*.pkl", "*.onnx")


def build_wheel(target: Path) -> Path:
    """
    Build the source archive and from it, not from the checkout, the wheel.

    :param target: folder for both
    :return: path of the wheel
    """
    run([sys.executable, "-m", "build", "--outdir", str(target), str(ROOT)], cwd=ROOT)
    (wheel,) = target.glob("*.whl")
    return wheel


def check_content(wheel: Path) -> list[str]:
    """
    Compare what is in the wheel with what is in the checkout.

    :param wheel: path of the wheel
    :return: one line per thing that is missing or too much
    """
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sb3_ppo_plus").rglob("*.py")}
    data = {
        f"sb3_ppo_plus/_data/{path.relative_to(ROOT).as_posix()}"
        for folder in DATA
        for pattern in PATTERNS
        for path in (ROOT / folder).rglob(pattern)
    }
    expected = package | data | {"sb3_ppo_plus/py.typed"}
    return [f"missing: {name}" for name in sorted(expected - names)] + [
        f"too much: {name}" for name in sorted(names - expected)
    ]


def use_in_fresh_environment(wheel: Path, folder: Path) -> None:
    """
    Install the wheel in an environment of its own and run the checks of :func:`inside` there.

    :param wheel: path of the wheel
    :param folder: where the environment goes; also the current folder, so that the checkout is out of sight
    """
    run([sys.executable, "-m", "venv", str(folder / "venv")], cwd=folder)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = str(programs / "python")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], cwd=folder)
    run([python, "-m", "pip", "check"], cwd=folder)
    run([str(programs / "ppo-plus"), "--help"], cwd=folder)
    # -I: neither the folder of this script nor PYTHONPATH helps to find the package.
    run([python, "-I", str(Path(__file__).resolve()), "--inside", str(ROOT)], cwd=folder)


def inside(checkout: Path) -> None:
    """
    Use the installed package: find its data, train, save, load.

    :param checkout: folder that the package must not come from
    """
    import gymnasium as gym

    import sb3_ppo_plus
    from sb3_ppo_plus import PPOPlus
    from sb3_ppo_plus.resources import resource_path

    package = Path(sb3_ppo_plus.__file__).resolve().parent
    assert not package.is_relative_to(checkout), f"imported from the checkout: {package}"
    for file in sorted(path for folder in DATA for path in (checkout / folder).rglob("*.yml")):
        folder, _, name = file.relative_to(checkout).as_posix().partition("/")
        found = resource_path(folder, name)
        assert found.is_relative_to(package), f"{found} is not in the installed package {package}"
        assert found.read_bytes() == file.read_bytes(), f"{found} differs from {file}"
    model = PPOPlus("MlpPolicy", "CartPole-v1", n_steps=128, n_epochs=2, seed=0, device="cpu").learn(256)
    assert model.num_timesteps == 256, model.num_timesteps
    model.save("model")
    loaded = PPOPlus.load("model", device="cpu")
    observation, _ = gym.make("CartPole-v1").reset(seed=0)
    actions = [agent.predict(observation, deterministic=True)[0] for agent in (model, loaded)]
    assert actions[0] == actions[1], f"the loaded model acts differently: {actions}"
    print(f"sb3_ppo_plus {sb3_ppo_plus.__version__} from {package}: data found, trained, saved, loaded")


def run(command: list[str], cwd: Path) -> None:
    """Run a command, say which, and stop at its failure."""
    print("$", " ".join(command), flush=True)
    subprocess.run(command, cwd=cwd, check=True, stdin=subprocess.DEVNULL)


def main() -> None:
    """Build, look into, install, use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", type=Path, metavar="CHECKOUT", help="only the checks in the fresh environment")
    arguments = parser.parse_args()
    if arguments.inside is not None:
        inside(arguments.inside)
        return
    with tempfile.TemporaryDirectory(prefix="wheel-smoke-") as name:
        wheel = build_wheel(Path(name, "dist"))
        problems = check_content(wheel)
        if problems:
            raise SystemExit("\n".join([f"{wheel.name} does not hold what it should:", *problems]))
        use_in_fresh_environment(wheel, Path(name))


if __name__ == "__main__":
    main()
