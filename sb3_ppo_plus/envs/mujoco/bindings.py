"""The MuJoCo that is installed: is it new enough, where do its warnings go, and how a model is read."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sb3_ppo_plus.errors import InvalidArgument

try:
    import mujoco
    from mujoco.batch import Batch, SimulationError
except ImportError as missing:
    try:
        from mujoco import __version__ as found
    except ImportError:
        found = "none"
    raise ImportError(
        f"MujocoVecEnv needs MuJoCo 3.17 or newer, the first with batched simulation; found: {found}. Install it "
        'with pip install "sb3-ppo-plus[mujoco]" "mujoco>=3.17". Everything else of this package works '
        "without it, and an older MuJoCo trains through gymnasium.make(...) and SB3's DummyVecEnv"
    ) from missing

__all__ = ["Batch", "SimulationError", "compile_model", "log_warnings", "mujoco"]

logger = logging.getLogger(__name__)

# MuJoCo's answers to states and controls that are not finite: it warns, and starts the simulation anew in the middle
# of a step, or takes the controls for 0. These kinds of warning stand next to each other.
DIVERGED = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)


def log_warnings() -> None:
    """
    Send MuJoCo's own warnings to the log.

    By default it prints them, and appends them to a file MUJOCO_LOG.TXT in the working folder.
    """
    mujoco.set_mju_user_warning(_on_warning)


def _on_warning(message: str) -> None:
    # Deprecations in the XML files of Gymnasium concern their authors, and a diverged simulation is counted by name.
    quiet = "deprecated" in message or "unstable" in message
    logger.log(logging.DEBUG if quiet else logging.WARNING, "MuJoCo: %s", message.strip())


def compile_model(source: Any) -> mujoco.MjModel:
    """
    Compile a robot.

    :param source: path of an MJCF file (a bare name is one of Gymnasium's own), the XML itself, or a ``mujoco.MjSpec``
    :return: the compiled model, not shared with anybody
    :raises InvalidArgument: when there is no such file, or MuJoCo cannot compile it, with MuJoCo's reason
    """
    log_warnings()
    try:
        if isinstance(source, mujoco.MjSpec):
            return source.compile()
        if isinstance(source, str) and source.lstrip().startswith("<"):
            return mujoco.MjModel.from_xml_string(source)
        return mujoco.MjModel.from_xml_path(str(_model_path(source)))
    except ValueError as failed:
        if isinstance(failed, InvalidArgument):
            raise
        raise InvalidArgument(f"MuJoCo cannot compile the model {_shortened(source)}: {failed}") from failed


def _model_path(source: Any) -> Path:
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidArgument(
            f"a model is {source!r} of type {type(source).__name__}; give the path of an MJCF file, XML text, or an "
            "MjSpec"
        )
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.parent == Path():
        # Found without importing gymnasium.envs.mujoco, which asks for packages that only drawing needs.
        package = find_spec("gymnasium")
        assets = Path(str(package.origin)).parent / "envs" / "mujoco" / "assets" if package else Path()
        if (assets / path).is_file():
            return assets / path
        known = ", ".join(sorted(file.name for file in assets.glob("*.xml")))
        raise InvalidArgument(
            f"there is no MJCF file {str(source)!r}, neither here nor among Gymnasium's own ({known})"
        )
    raise InvalidArgument(f"there is no MJCF file {str(source)!r}")


def _shortened(source: Any) -> str:
    text = repr(source)
    return text if len(text) <= 80 else f"{text[:77]}..."
