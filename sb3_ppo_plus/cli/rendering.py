"""How MuJoCo draws, without a screen and on one; to be chosen before mujoco is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

from sb3_ppo_plus.errors import InvalidArgument

# In this order: EGL is fast (GPU or Mesa), OSMesa always draws in software.
BACKENDS = ("egl", "osmesa")
REMEDY = "MuJoCo cannot draw without a screen here; install EGL or OSMesa (Debian: apt install libegl1, or libosmesa6)"

_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")

_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='.3'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any()
"""


def choose_mujoco_renderer() -> str | None:
    """
    Set MUJOCO_GL to a renderer that works, unless the user chose one or the system has its own way of drawing.

    :return: None when MuJoCo can draw (or is not installed), else what to install
    """
    if not sys.platform.startswith("linux") or os.environ.get("MUJOCO_GL") or find_spec("mujoco") is None:
        return None
    for backend in BACKENDS:
        if renderer_works(backend):
            os.environ["MUJOCO_GL"] = backend
            return None
    return None if os.environ.get("DISPLAY") else REMEDY


def has_screen() -> bool:
    """
    :return: whether a window can be opened, as far as the environment variables tell
    """
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in _SCREENS)


def choose_window() -> None:
    """
    Check that there is a screen, and let MuJoCo draw on it, whatever it was told to use for pictures in memory.

    :raises InvalidArgument: without a screen
    """
    if not has_screen():
        raise InvalidArgument(
            f"--render opens a window, and there is no screen here (neither {' nor '.join(_SCREENS)} is set); use "
            "--video FILE, which needs none"
        )
    if os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = "glfw"


def renderer_works(backend: str, timeout: float = 60.0) -> bool:
    """
    Draw one picture in a child process: a renderer that is not there may end the process that tries it.

    :param backend: value for MUJOCO_GL
    :param timeout: seconds to wait
    :return: whether the picture came out
    """
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return child.returncode == 0
