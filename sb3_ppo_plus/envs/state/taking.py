"""
Values of any kind as plain data.

An attribute is state (numbers, arrays, containers, random generators, objects made of such), or setup (functions,
classes) that the new object has from its own constructor, or neither: then it is named. What two attributes share stays
shared, so everything that belongs together is taken by one :class:`Taker`.
"""

from __future__ import annotations

import enum
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_ppo_plus.envs.state import kinds
from sb3_ppo_plus.envs.state.kinds import KIND, NotPlain, Output
from sb3_ppo_plus.envs.state.protocol import has_protocol

_ROW_FROM = 8
_PYTHON_ROWS = {float: np.dtype(np.float64), int: np.dtype(np.int64), bool: np.dtype(np.bool_)}
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
_BYTES_OWNERS = (bytes, bytearray, memoryview)
_FACTORIES = (list, dict, set, int, float, str, bool)


class Taker:
    """One look at many objects; what it met before is told as such."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._layers: dict[int, int] = {}
        self._owners: dict[int, list[np.ndarray]] = {}
        self._bits: set[int] = set()
        # An object that went away could leave its identity to another one.
        self._alive: list[Any] = []
        self._depth = 0

    def meet(self, layers: Iterable[Any]) -> None:
        """:param layers: environments and wrappers, whose own state is taken elsewhere, in the order of the giver"""
        for layer in layers:
            self._layers[id(layer)] = len(self._layers)

    def attributes(self, owner: Any, skip: frozenset[str] = kinds.SETUP_NAMES) -> tuple[dict[str, Any], list[str]]:
        """
        Take what an object remembers.

        :param owner: the object
        :param skip: attributes that are not to be looked at
        :return: plain data by attribute, and a few words on each attribute that cannot be copied
        """
        found: dict[str, Any] = {}
        stuck: list[str] = []
        for name, value in kinds.members(owner):
            if name in skip:
                continue
            if type(value) in kinds.SCALARS:
                found[name] = value
                continue
            found[name], reason = self._try(value)
            if reason:
                stuck.append(f"{name} ({reason})")
        return found, stuck

    def _try(self, value: Any) -> tuple[Any, str]:
        mark = len(self._numbers)
        try:
            return self.value(value), ""
        except (NotPlain, Output) as reason:
            while len(self._numbers) > mark:
                self._numbers.popitem()
            return {KIND: "kept"}, str(reason)

    def own(self, state: Any) -> tuple[Any, str]:
        """
        :param state: what an object's own ``get_state()`` gave
        :return: a copy, as plain data, and why it cannot be copied, empty when it can
        """
        self._alive.append(state)
        return self._try(state)

    def value(self, value: Any) -> Any:
        """
        :param value: any value
        :return: plain data
        :raises NotPlain: when it cannot be copied
        :raises Output: for pictures and files
        """
        kind = type(value)
        if kind in kinds.SCALARS:
            return value
        if (number := self._numbers.get(id(value))) is not None:
            return {KIND: "same", "number": number}
        if (number := self._layers.get(id(value))) is not None:
            return {KIND: "layer", "number": number}
        if self._depth >= kinds.MAX_DEPTH:
            raise NotPlain("containers nested too deeply")
        self._depth += 1
        try:
            return (_TAKERS.get(kind) or _find_taker(value))(self, value)
        finally:
            self._depth -= 1

    def _count(self, value: Any) -> None:
        self._numbers[id(value)] = len(self._numbers)

    # ------------------------------------------------ containers

    def _items(self, values: Sequence[Any]) -> Any:
        """Long rows of numbers of one type, such as the returns of all episodes, as an array."""
        if len(values) >= _ROW_FROM:
            found = set(map(type, values))
            kind = found.pop()
            if not found and kind in _PYTHON_ROWS:
                try:
                    array = np.array(values)
                except OverflowError:
                    return [self.value(item) for item in values]
                if array.dtype == _PYTHON_ROWS[kind]:
                    return {"python": array}
            elif not found and issubclass(kind, np.number):
                return {"numpy": np.array(values)}
        return [self.value(item) for item in values]

    def _list(self, value: list[Any]) -> Any:
        self._count(value)
        items = self._items(value)
        return items if isinstance(items, list) else {KIND: "row", "items": items}

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        return tuple(self.value(item) for item in value)

    def _named_tuple(self, value: tuple[Any, ...]) -> Any:
        return {KIND: "named", "class": kinds.class_name(type(value)), "items": [self.value(item) for item in value]}

    def _dict(self, value: dict[Any, Any]) -> Any:
        self._count(value)
        state: dict[str, Any] = {KIND: "dict"}
        if type(value) is not dict:
            state["of"] = type(value).__name__
            if isinstance(value, defaultdict) and value.default_factory is not None:
                factory = value.default_factory
                if factory not in _FACTORIES:
                    raise NotPlain(f"a defaultdict of {kinds.label(factory)}")
                state["factory"] = kinds.label(factory).rpartition(".")[2]
        if all(type(key) is str for key in value):
            state["items"] = {key: self.value(part) for key, part in value.items()}
        else:
            state["items"] = [[self.value(key), self.value(part)] for key, part in value.items()]
        return state

    def _deque(self, value: deque[Any]) -> Any:
        self._count(value)
        return {KIND: "deque", "items": self._items(list(value)), "maxlen": value.maxlen}

    def _set(self, value: set[Any] | frozenset[Any]) -> Any:
        self._count(value)
        order = list(value)
        again = type(value)(order)
        # The order in which a set gives its members depends on what it held before.
        if list(again) != order or sys.getsizeof(again) != sys.getsizeof(value):
            raise NotPlain("a set whose order cannot be put back; a dict or a list keeps its own")
        return {KIND: "set", "items": [self.value(item) for item in order], "frozen": type(value) is frozenset}

    # ------------------------------------------------ numbers

    def _array(self, value: np.ndarray) -> Any:
        owner: Any = value
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if (known := self._owners.get(id(owner))) is not None and (same := self._overlap(value, known)) is not None:
            return {KIND: "same", "number": same}
        self._owners.setdefault(id(owner), []).append(value)
        self._count(value)
        if owner.base is not None and not _holds_bytes(owner.base):
            return {KIND: "foreign", "array": self._numeric(value).copy()}
        if value.dtype.kind == "O":
            return {KIND: "objects", "shape": list(value.shape), "items": [self.value(item) for item in value.flat]}
        if value.dtype.kind in "SUmM":
            content = value.tobytes()
            return {KIND: "raw", "dtype": value.dtype.str, "shape": list(value.shape), "content": content}
        if value.flags.c_contiguous or value.ndim < 2:
            return self._numeric(value).copy()
        # Sums over an array are rounded in the order in which it lies in memory.
        order = sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis]))
        return {KIND: "turned", "array": np.ascontiguousarray(self._numeric(value).transpose(order)), "axes": order}

    def _numeric(self, value: np.ndarray) -> np.ndarray:
        if value.dtype.kind not in "biufc":
            raise NotPlain(f"an array of {value.dtype}")
        return value

    def _overlap(self, value: np.ndarray, known: list[np.ndarray]) -> int | None:
        for other in known:
            number = self._numbers.get(id(other))
            if number is None or not np.may_share_memory(other, value):
                continue
            if other.__array_interface__ == value.__array_interface__:
                return number
            raise NotPlain("a view of an array that is kept elsewhere, too")
        return None

    def _scalar(self, value: np.generic) -> Any:
        if value.dtype.kind not in "biufc":
            self._alive.append(array := np.asarray(value))
            return {KIND: "scalar", "array": self._array(array)}
        return {KIND: "scalar", "array": np.asarray(value).copy()}

    def _tensor(self, value: Any) -> Any:
        if value.requires_grad:
            raise NotPlain("a tensor with a gradient")
        self._count(value)
        return value.detach().clone()

    def _bytearray(self, value: bytearray) -> Any:
        self._count(value)
        return {KIND: "bytearray", "content": bytes(value)}

    # ------------------------------------------------ random generators

    def _generator(self, value: np.random.Generator) -> Any:
        bits = value.bit_generator
        if type(bits).__name__ not in kinds.BIT_GENERATORS:
            raise NotPlain(f"a generator on {type(bits).__name__}")
        if getattr(bits.seed_seq, "n_children_spawned", 0):
            raise NotPlain("a generator that has spawned others")
        if id(bits) in self._bits:
            raise NotPlain("a generator that draws from the numbers of another one")
        self._bits.add(id(bits))
        self._count(value)
        return {KIND: "generator", "state": dict(bits.state)}

    def _random(self, value: random.Random) -> Any:
        self._count(value)
        version, words, gauss = value.getstate()
        return {KIND: "random", "version": version, "words": np.array(words, np.int64), "gauss": gauss}

    def _random_state(self, value: np.random.RandomState) -> Any:
        self._count(value)
        return {KIND: "random_state", "state": dict(value.get_state(legacy=False))}

    def _torch_generator(self, value: Any) -> Any:
        self._count(value)
        return {KIND: "torch_generator", "state": value.get_state().clone()}

    def _space(self, value: spaces.Space) -> Any:
        """Of a space only its generator moves, and those of its parts; one that was not used yet stays so."""
        self._count(value)
        generator = value._np_random
        return {
            KIND: "space",
            "of": type(value).__name__,
            "shape": None if value._shape is None else list(value._shape),
            "state": None if generator is None else dict(generator.bit_generator.state),
            "parts": [self.value(part) for part in parts_of(value)],
        }

    # ------------------------------------------------ objects

    def _enum(self, value: enum.Enum) -> Any:
        what = {"value": self.value(value.value)} if isinstance(value, enum.Flag) else {"name": value.name}
        return {KIND: "enum", "class": kinds.class_name(type(value)), **what}

    def _method(self, value: Any) -> Any:
        owner, name = value.__self__, value.__name__
        if owner is None or isinstance(owner, (type, types.ModuleType)):
            return self._setup(value)
        if getattr(owner, name, None) != value:
            raise NotPlain("a method that its object does not have")
        return {KIND: "method", "of": self.value(owner), "name": name}

    def _setup(self, value: Any) -> Any:
        held: list[Any] = []
        if isinstance(value, types.FunctionType) and value.__closure__:
            held = [_content(cell) for cell in value.__closure__]
        elif isinstance(value, partial):
            held = [*value.args, *value.keywords.values()]
        if any(isinstance(item, _GENERATORS) for item in held):
            raise NotPlain("a function with a random generator in it")
        return {KIND: "setup", "is": kinds.label(value)}

    def _object(self, value: Any) -> Any:
        kind = type(value)
        self._count(value)
        if isinstance(value, gym.Env) and has_protocol(value):
            owner: Any = value
            self._alive.append(own := owner.get_state())
            return {KIND: "own", "state": self.value(own)}
        state, stuck = self.attributes(value, kinds.SETUP_NAMES if isinstance(value, gym.Env) else frozenset())
        if stuck:
            raise NotPlain(f"{kind.__name__} with {', '.join(stuck)}")
        return {KIND: "object", "class": kinds.class_name(kind), "state": state}


def parts_of(space: spaces.Space) -> list[spaces.Space]:
    """
    :param space: a space
    :return: spaces that it is made of
    """
    found = [value for value in vars(space).values() if isinstance(value, spaces.Space)]
    inner = vars(space).get("spaces", ())
    return [*found, *(inner.values() if isinstance(inner, dict) else inner)]


def _holds_bytes(base: Any) -> bool:
    return isinstance(base, _BYTES_OWNERS) or type(base).__name__ in ("PickleBuffer", "Tensor")


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _find_taker(value: Any) -> Callable[[Taker, Any], Any]:
    kind: Any = type(value)
    for base, taker in _BY_BASE:
        if isinstance(value, base):
            return taker
    if kinds.is_output(value):
        raise Output
    if isinstance(value, tuple) and hasattr(kind, "_fields") and kind.__mro__[1:] == (tuple, object):
        return Taker._named_tuple
    if kinds.is_tensor(value):
        return Taker._tensor
    if kind.__module__ in ("torch", "torch._C") and kind.__name__ == "Generator":
        return Taker._torch_generator
    if kind.__module__ == "torch" and kind.__name__ in ("dtype", "device"):
        return Taker._setup
    if kinds.is_pure_python(kind):
        return Taker._object
    raise NotPlain(f"a {kind.__name__}")


_TAKERS: dict[type, Callable[[Taker, Any], Any]] = {
    list: Taker._list,
    tuple: Taker._tuple,
    dict: Taker._dict,
    OrderedDict: Taker._dict,
    defaultdict: Taker._dict,
    Counter: Taker._dict,
    deque: Taker._deque,
    set: Taker._set,
    frozenset: Taker._set,
    bytearray: Taker._bytearray,
    np.ndarray: Taker._array,
    np.random.Generator: Taker._generator,
    np.random.RandomState: Taker._random_state,
    random.Random: Taker._random,
    types.MethodType: Taker._method,
    types.BuiltinMethodType: Taker._method,
}
_BY_BASE: tuple[tuple[Any, Callable[[Taker, Any], Any]], ...] = (
    (enum.Enum, Taker._enum),
    (np.generic, Taker._scalar),
    (spaces.Space, Taker._space),
    (kinds.SETUP_TYPES, Taker._setup),
)
