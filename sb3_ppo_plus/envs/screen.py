"""Whether a window can open."""

from __future__ import annotations

import warnings
from importlib import import_module


def screen_answers() -> bool:
    """
    Ask for the screen before a viewer does: one that does not answer would end the process there.

    :return: whether GLFW, which MuJoCo's windows are made with, is installed and finds a screen
    """
    try:
        glfw = import_module("glfw")
    except ImportError:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(glfw.init() and glfw.get_primary_monitor())
