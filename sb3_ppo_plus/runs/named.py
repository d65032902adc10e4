"""Classes that a configuration names by their import path; only those of the kind that belongs there are called."""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
from pathlib import Path
from typing import Any

from sb3_ppo_plus.errors import InvalidArgument

# Functions of libraries that stand for a wrapper in the zoo's own configurations.
_KNOWN_FUNCTIONS = ("rl_zoo3.utils.flatten_dict_observations",)


def import_named(name: str, path: Any, base: type, functions: bool = False) -> Any:
    """
    Import a class by its path.

    A configuration comes from a file, and a path can name anything that is installed: ``os.system`` as well. So the
    standard library is not imported from, and what is found must be a class of the right kind.

    :param name: hyperparameter that names it, for errors
    :param path: ``package.module.Class``
    :param base: class that it must derive from
    :param functions: whether a function may stand for it, if it is of a module of the user's own, which is installed
        nowhere
    :return: the class or function
    :raises InvalidArgument: for anything else
    """
    module, dot, attribute = str(path).rpartition(".")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise InvalidArgument(f"{name}: {path!r} is of Python's own library, which has no {base.__name__}")
    try:
        if not dot:
            raise ImportError("not of the form package.module.Class")
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as missing:
        raise InvalidArgument(
            f"{name}: {path!r} cannot be imported ({missing}); give an import path such as gymnasium.wrappers.TimeLimit"
        ) from missing
    if isinstance(found, type) and issubclass(found, base):
        return found
    if functions and (path in _KNOWN_FUNCTIONS or (inspect.isfunction(found) and _is_of_the_user(found))):
        return found
    raise InvalidArgument(f"{name}: {path!r} is {found!r} and no {base.__name__}; give an import path of one")


def _is_of_the_user(function: Any) -> bool:
    """Whether a function was written beside the training, and not installed."""
    paths = sysconfig.get_paths()
    file = Path(inspect.getfile(function)).resolve()
    return not any(file.is_relative_to(Path(paths[kind]).resolve()) for kind in ("stdlib", "purelib", "platlib"))
