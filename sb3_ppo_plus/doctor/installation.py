"""The doctor for the installation: versions, extras, GPU, compiler, a tiny update, an export."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch as th

from sb3_ppo_plus import PPOPlus, __version__
from sb3_ppo_plus.compile_choice import missing_compiler
from sb3_ppo_plus.machine import processors

OK, MISSING, FAILED = "ok", "missing", "failed"
_CORE = ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy")
# Extra, a module that it brings, and what it is for.
_EXTRAS = (
    ("mujoco", "mujoco", "robots, natively stepped"),
    ("unity", "mlagents_envs", "Unity's games"),
    ("tune", "optuna", "ppo-plus tune"),
    ("export", "onnxruntime", "export as ONNX"),
    ("zoo", "rl_zoo3", "RL Baselines3 Zoo"),
    ("warp", "mujoco_warp", "MuJoCo on a GPU"),
)


@dataclass(frozen=True)
class Check:
    """
    One part of the installation.

    :param name: what was looked at
    :param state: ``ok``, ``missing`` (and not needed by everybody) or ``failed``
    :param detail: version, speed, or what to install
    """

    name: str
    state: str
    detail: str


def check_installation() -> list[Check]:
    """
    :return: all parts, in the order of their importance
    """
    checks = [Check("sb3-ppo-plus", OK, f"{__version__}, Python {platform.python_version()}, {platform.platform()}")]
    checks += [_package(name) for name in _CORE]
    checks += [_extra(*extra) for extra in _EXTRAS]
    checks += [_processor(), _gpu(), _compiler()]
    checks.append(_attempt("update", _tiny_update))
    if find_spec("onnxruntime") is not None and find_spec("onnx") is not None:
        checks.append(_attempt("export", _export_round_trip))
    return checks


def _package(name: str) -> Check:
    try:
        return Check(name, OK, version(name))
    except PackageNotFoundError:
        return Check(name, FAILED, f"pip install {name}")


def _extra(extra: str, module: str, purpose: str) -> Check:
    if find_spec(module) is None:
        return Check(f"[{extra}]", MISSING, f'{purpose}: pip install "sb3-ppo-plus[{extra}]"')
    return Check(f"[{extra}]", OK, purpose)


def _processor() -> Check:
    return Check("processors", OK, f"{processors()}, torch uses {th.get_num_threads()} threads")


def _gpu() -> Check:
    if th.cuda.is_available():
        names = ", ".join(th.cuda.get_device_name(index) for index in range(th.cuda.device_count()))
        return Check("GPU", OK, names)
    if th.backends.mps.is_available():
        return Check("GPU", OK, "Apple's, as the device mps")
    return Check("GPU", MISSING, "none that this torch can use; small networks are faster on the processor")


def _compiler() -> Check:
    device = th.device("cuda" if th.cuda.is_available() else "cpu")
    missing = missing_compiler(device)
    if missing is not None:
        return Check("compiler", MISSING, f"{missing}; updates run uncompiled, which is slower")
    return Check("compiler", OK, f"updates can be compiled for {device.type}")


def _attempt(name: str, work: Callable[[], str]) -> Check:
    try:
        return Check(name, OK, work())
    except Exception as error:  # whatever is broken here is what is to be told
        return Check(name, FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _tiny_model() -> PPOPlus:
    return PPOPlus("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu")


def _tiny_update() -> str:
    model = _tiny_model()
    before = th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])
    started = time.perf_counter()
    model.learn(64)
    seconds = time.perf_counter() - started
    after = th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])
    if not bool(th.isfinite(after).all()) or bool((before == after).all()):
        raise RuntimeError("an update of CartPole-v1 left no changed, finite parameters")
    return f"64 steps of CartPole-v1 and an update in {seconds:.2f} s"


def _export_round_trip() -> str:
    from sb3_ppo_plus.export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(_tiny_model(), path, n_random=50, n_episodes=1)
        return f"an ONNX file of {path.stat().st_size / 1024:.0f} KiB acts like its model"
