"""
From what a pickle says to values, by a table of what may be in it.

The table is exact: a class or function is known by its module and its name, and what is made of it is written here and
in the modules beside this one. Nothing is looked up, imported or called by a name that a file gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sb3_ppo_plus.files.pickles import BadPickle, Call, Members, Name, Pairs, Persistent, read_pickle

#: most elements of what is rebuilt, counted as often as they are shown
MAX_ELEMENTS = 5_000_000
#: deepest nesting
MAX_DEPTH = 100
_SCALARS = (bool, int, float, str)


class Untrusted(ValueError):
    """
    A pickle wants something that is not in the table.

    :param wanted: class or function that it names
    """

    def __init__(self, wanted: str) -> None:
        super().__init__(f"it wants {wanted}, which only the file's own code could give")
        self.wanted = wanted


@dataclass(frozen=True)
class Maker:
    """
    How one class or function of the table is rebuilt.

    :param make: from the rebuilder and the call to the value
    :param takes: which of ``kwargs``, ``state``, ``items``, ``pairs`` and ``effects`` of the call it reads; others must
        be empty
    """

    make: Callable[[Rebuilder, Call], Any]
    takes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """
    A table of what pickles of one kind of file may hold.

    :param values: classes that are given as themselves
    :param makers: classes and functions that are called, and who does it instead
    """

    values: Mapping[Name, Any] = field(default_factory=dict)
    makers: Mapping[Name, Maker] = field(default_factory=dict)

    def __or__(self, other: Known) -> Known:
        return Known({**self.values, **other.values}, {**self.makers, **other.makers})


def classes(kinds: Iterable[type[Any]], *renamed: tuple[str, str, type[Any]]) -> dict[Name, type[Any]]:
    """
    :param kinds: classes
    :param renamed: further names, of other versions: module, name, class
    :return: the classes by the names that pickles use
    """
    found = {Name(kind.__module__, kind.__qualname__): kind for kind in kinds}
    return {**found, **{Name(module, name): kind for module, name, kind in renamed}}


def load_known(content: bytes, known: Known) -> Any:
    """
    Read a pickle whose parts are all known.

    :param content: the pickle, with nothing behind it
    :param known: table
    :return: what it describes
    :raises BadPickle: when it is damaged
    :raises Untrusted: when it wants what is not in the table
    """
    node, end = read_pickle(content)
    if end != len(content):
        raise BadPickle(f"{len(content) - end} bytes follow it")
    return Rebuilder(known).value(node)


class Rebuilder:
    """
    Makes values of what was read, each once however often it is referred to.

    :param known: table
    :param outside: what persistent references stand for
    """

    def __init__(self, known: Known, outside: Callable[[Any], Any] | None = None) -> None:
        self.known, self.outside = known, outside
        self._done: dict[int, tuple[Any, int]] = {}
        self._open: set[int] = set()
        self._size = 0

    def value(self, node: Any) -> Any:
        """
        :param node: what :func:`~sb3_ppo_plus.files.pickles.read_pickle` gave, or a part of it
        :return: the value
        :raises BadPickle: when it is too large, too deep, or makes no sense
        :raises Untrusted: when it wants what is not in the table
        """
        if node is None or type(node) in _SCALARS or type(node) in (bytes, bytearray):
            self._count(1)
            return node
        number = id(node)
        if number in self._done:
            value, size = self._done[number]
            self._count(size)
            return value
        if number in self._open or len(self._open) > MAX_DEPTH:
            raise BadPickle("it holds itself" if number in self._open else f"it is nested deeper than {MAX_DEPTH}")
        self._open.add(number)
        before = self._size
        self._count(1)
        value = self._make(node)
        self._open.discard(number)
        self._done[number] = value, self._size - before
        return value

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_ELEMENTS:
            raise BadPickle(f"it has more than {MAX_ELEMENTS} elements")

    def _make(self, node: Any) -> Any:
        if isinstance(node, Pairs):
            return self.mapping(node)
        if isinstance(node, Members):
            return {self._scalar(item) for item in node}
        if type(node) in (list, tuple):
            return type(node)([self.value(item) for item in node])
        if isinstance(node, Name):
            if node not in self.known.values:
                raise Untrusted(str(node))
            return self.known.values[node]
        if isinstance(node, Persistent):
            if self.outside is None:
                raise BadPickle("it refers to something outside of it")
            return self.outside(node.key)
        if isinstance(node, Call):
            return self._make_call(node)
        raise BadPickle(f"it holds a {type(node).__name__}")

    def _make_call(self, call: Call) -> Any:
        maker = self.known.makers.get(call.function) if isinstance(call.function, Name) else None
        if maker is None:
            raise Untrusted(_described(call.function))
        for part in ("kwargs", "state", "items", "pairs", "effects"):
            if part not in maker.takes and getattr(call, part):
                raise BadPickle(f"{call.function} comes with {part} that it never has")
        if not isinstance(call.args, tuple):
            raise BadPickle(f"the arguments of {call.function} are no tuple")
        try:
            return maker.make(self, call)
        except (BadPickle, Untrusted):
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:150]
            raise BadPickle(f"a {call.function} that cannot be ({type(error).__name__}: {reason})") from error

    def mapping(self, pairs: Any) -> dict[Any, Any]:
        """
        :param pairs: entries of a mapping
        :return: it
        :raises BadPickle: for keys that are no numbers or text
        """
        if not isinstance(pairs, Pairs):
            raise BadPickle("it has something else where a mapping belongs")
        return {self._scalar(key): self.value(item) for key, item in pairs}

    def state(self, call: Call) -> dict[str, Any]:
        """
        :param call: of a class with one mapping of attributes as its state
        :return: these attributes
        :raises BadPickle: for another state
        """
        if len(call.state) > 1 or not all(isinstance(state, Pairs) for state in call.state):
            raise BadPickle(f"the state of {call.function} is no mapping")
        attributes = self.value(call.state[0]) if call.state else {}
        for name in attributes:
            if not isinstance(name, str) or name.startswith("__"):
                raise BadPickle(f"{call.function} has the attribute {name!r}")
        return dict(attributes)

    def arguments(self, call: Call, *kinds: Any) -> list[Any]:
        """
        :param call: any
        :param kinds: the type of each argument, or a tuple of types
        :return: its arguments, which are of these types
        :raises BadPickle: when there are others
        """
        if len(call.args) != len(kinds):
            raise BadPickle(f"{call.function} has {len(call.args)} arguments instead of {len(kinds)}")
        found = [self.value(argument) for argument in call.args]
        for value, kind in zip(found, kinds, strict=True):
            if not isinstance(value, kind):
                raise BadPickle(f"{call.function} has a {type(value).__name__} as an argument")
        return found

    def _scalar(self, node: Any) -> Any:
        if not (node is None or type(node) in _SCALARS):
            raise BadPickle(f"it has a {type(node).__name__} as a key")
        return node


def record(kind: type[Any], **checks: Callable[[Any], bool]) -> Maker:
    """
    A class whose pickle is its attributes, made without its constructor.

    :param kind: class
    :param checks: attributes that it must have, with a condition on each; others may be there
    :return: how it is rebuilt
    """

    def make(rebuilder: Rebuilder, call: Call) -> Any:
        rebuilder.arguments(call)
        attributes = rebuilder.state(call)
        for name, holds in checks.items():
            if name not in attributes or not holds(attributes[name]):
                raise BadPickle(f"{call.function} has no {name} that can be: {str(attributes.get(name))[:80]}")
        check_attributes(kind, attributes)
        made: Any = object.__new__(kind)
        made.__dict__.update(attributes)
        return made

    return Maker(make, ("state",))


def check_attributes(kind: type[Any], attributes: Iterable[str]) -> None:
    """
    :param kind: class
    :param attributes: names of attributes that an instance shall get
    :raises BadPickle: when one would take the place of a method
    """
    for name in attributes:
        if callable(getattr(kind, name, None)) and not isinstance(getattr(kind, name), type):
            raise BadPickle(f"{kind.__name__} has the method {name!r}, and the file something else in its place")


def _described(function: Any) -> str:
    if isinstance(function, Call):
        return f"what {_described(function.function)} returns"
    return str(function) if isinstance(function, Name) else f"a call of a {type(function).__name__}"
