"""What taking values and giving them back agree on: names, labels, and where an object keeps its attributes."""

from __future__ import annotations

import logging
import pathlib
import re
import sys
import types
from abc import ABCMeta
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np

KIND = "kind"
#: levels of containers in containers; a tree in a file may be nested three times as deep
MAX_DEPTH = 14
SCALARS = frozenset({bool, int, float, str, bytes, type(None)})
#: attributes of environments and wrappers that whoever makes one decides
SETUP_NAMES = frozenset(
    """spec metadata render_mode reward_range _metadata _cached_spec _saved_kwargs _ezpickle_args
    _ezpickle_kwargs""".split()
)
#: what a function is to an object that has it: the same in any object that is made in the same way
SETUP_TYPES = (
    *(type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, partial),
    *(np.dtype, np.ufunc, type(np.mean), pathlib.PurePath, re.Pattern),
)
#: NumPy's own bit generators, which a state may name
BIT_GENERATORS = frozenset({"PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"})
# Pictures and files: the next step does not depend on them.
_OUTPUTS = frozenset(
    {
        ("pygame", "Surface"),
        ("pygame", "Clock"),
        ("pygame", "Font"),
        ("gymnasium", "MujocoRenderer"),
        ("stable_baselines3", "ResultsWriter"),
    }
)
_PLAIN_SIZE = type("_Plain", (), {}).__basicsize__
_HEAP_TYPE = 1 << 9


class NotPlain(Exception):
    """A value that is neither state that can be copied nor setup; the message says what it is."""


class Output(Exception):
    """A picture or a file, which is left as it is."""


class Mismatch(Exception):
    """A value that has no place in this object; the message says why."""


def is_output(value: Any) -> bool:
    """
    :param value: an attribute
    :return: whether it is only for looking at what happens
    """
    kind = type(value)
    return (kind.__module__.partition(".")[0], kind.__name__) in _OUTPUTS or isinstance(value, logging.Logger)


def is_tensor(value: Any) -> bool:
    """
    :param value: anything
    :return: whether it is a plain tensor of torch, which this module does not import
    """
    kind = type(value)
    return kind.__name__ == "Tensor" and kind.__module__ == "torch"


def label(value: Any) -> str:
    """
    :param value: a function, a class, a type
    :return: what it is called, which is how it is recognized
    """
    if isinstance(value, partial):
        return f"partial of {label(value.func)}"
    if isinstance(value, (pathlib.PurePath, re.Pattern)):
        return type(value).__name__
    module = module_name(value)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or str(value)
    return f"{module}.{name}" if module else str(name)


def class_name(kind: type) -> str:
    """
    :param kind: a class
    :return: its name in a state
    """
    return f"{module_name(kind)}:{kind.__qualname__}"


def module_name(value: Any) -> str:
    """
    :param value: a class or function
    :return: name of its module; that of a program is its file's, as if it had been imported
    """
    name = getattr(value, "__module__", None)
    if name not in ("__main__", "__mp_main__"):
        return name or ""
    program = sys.modules["__main__"]
    if (spec := getattr(program, "__spec__", None)) is not None:
        return str(spec.name)
    return pathlib.Path(getattr(program, "__file__", None) or name).stem


def loaded_class(name: str) -> type | None:
    """
    :param name: what :func:`class_name` gave
    :return: the class, of a module that is there already; nothing is imported
    """
    module, _, path = name.partition(":")
    for home in (module, "__main__"):
        found: Any = sys.modules.get(home)
        for part in path.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and class_name(found) == name:
            return found
    return None


@cache
def is_pure_python(kind: type) -> bool:
    """
    :param kind: a class
    :return: whether all that its objects remember is in their attributes: no base of it is written in C
    """
    room = _PLAIN_SIZE
    for base in reversed(kind.__mro__[:-1]):
        room += 8 * len(_own_slots(base))
        is_class = type(base) is type or issubclass(type(base), ABCMeta)
        if not base.__flags__ & _HEAP_TYPE or not is_class or base.__basicsize__ > room:
            return False
    return kind is not object


def _own_slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    private = f"_{kind.__name__.lstrip('_')}"
    return tuple(
        f"{private}{name}" if name.startswith("__") and not name.endswith("__") else name
        for name in names
        if name not in ("__dict__", "__weakref__")
    )


@cache
def _slots(kind: type) -> tuple[str, ...]:
    return tuple(name for base in kind.__mro__ for name in _own_slots(base))


def _slots_of(owner: Any) -> tuple[str, ...]:
    kind: Any = type(owner)
    return _slots(kind)


def members(owner: Any) -> Iterator[tuple[str, Any]]:
    """
    :param owner: an object
    :return: its attributes, those in slots included
    """
    yield from list(getattr(owner, "__dict__", {}).items())
    for name in _slots_of(owner):
        try:
            yield name, object.__getattribute__(owner, name)
        except AttributeError:
            continue


def set_member(owner: Any, name: str, value: Any) -> None:
    """
    :param owner: an object
    :param name: its attribute
    :param value: what it becomes, whatever the object's own rules about attributes are
    """
    if name in _slots_of(owner):
        object.__setattr__(owner, name, value)
    else:
        owner.__dict__[name] = value


def delete_member(owner: Any, name: str) -> None:
    """
    :param owner: an object
    :param name: attribute that it has and must not have
    """
    if name in _slots_of(owner):
        object.__delattr__(owner, name)
    else:
        del owner.__dict__[name]
