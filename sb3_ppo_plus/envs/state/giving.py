"""Plain data back into objects that were made like those it was taken from. See ``taking.py``."""

from __future__ import annotations

import enum
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ppo_plus.envs.state import kinds
from sb3_ppo_plus.envs.state.kinds import KIND, Mismatch
from sb3_ppo_plus.envs.state.taking import parts_of
from sb3_ppo_plus.errors import InvalidArgument

_REMEDY = "make and wrap the environments as they were; if they differ only in that, reset() them before"
_DICTS: dict[str, Any] = {"OrderedDict": OrderedDict, "Counter": Counter}
_FACTORIES = {kind.__name__: kind for kind in (list, dict, set, int, float, str, bool)}


class Giver:
    """The other end of one :class:`~sb3_ppo_plus.envs.state.taking.Taker`; it has to see everything in its order."""

    def __init__(self) -> None:
        self._made: list[Any] = []
        self._layers: list[Any] = []
        self._used: dict[int, Any] = {}
        self._classes: dict[str, type] = {}

    def meet(self, layers: Iterable[Any]) -> None:
        """:param layers: environments and wrappers, in the order of the taker"""
        for layer in layers:
            self._layers.append(layer)
            # A class of a module that an environment is from may be needed before an object of it exists here.
            self._classes.setdefault(kinds.class_name(type(layer)), type(layer))

    def attributes(self, owner: Any, state: Mapping[str, Any], skip: frozenset[str] = kinds.SETUP_NAMES) -> None:
        """
        Make an object remember what another did; what it has and the other had not goes.

        :param owner: object of the same class
        :param state: what the taker's ``attributes()`` gave
        :param skip: attributes that were not looked at
        :raises InvalidArgument: when a value has no place in this object
        """
        there = dict(kinds.members(owner))
        for name, encoded in state.items():
            if isinstance(encoded, Mapping) and encoded[KIND] == "kept":
                continue
            current = there.get(name)
            try:
                kinds.set_member(owner, name, self.value(encoded, current))
            except Mismatch as reason:
                raise InvalidArgument(f"{type(owner).__name__}.{name} {reason}; {_REMEDY}") from reason
        for name in there:
            if name not in state and name not in skip:
                kinds.delete_member(owner, name)

    def value(self, encoded: Any, current: Any) -> Any:
        """
        :param encoded: what the taker's ``value()`` gave
        :param current: what stands in its place
        :return: what takes that place; the same object where its state can be set
        :raises Mismatch: when it does not fit what stands there
        """
        if isinstance(encoded, Mapping):
            return _GIVERS[encoded[KIND]](self, encoded, current)
        if isinstance(encoded, list):
            made: list[Any] = []
            self._made.append(made)
            made.extend(self._items(encoded, current))
            return made
        if isinstance(encoded, tuple):
            return tuple(self._items(encoded, current))
        if isinstance(encoded, np.ndarray):
            return self._keep(encoded.copy())
        if kinds.is_tensor(encoded):
            return self._keep(encoded.clone().to(current.device if kinds.is_tensor(current) else encoded.device))
        return encoded

    def _keep(self, value: Any) -> Any:
        self._made.append(value)
        return value

    def _free(self, current: Any) -> bool:
        """Say whether an object may be used in place: two that were one here may be two there."""
        if id(current) in self._used:
            return False
        self._used[id(current)] = current
        return True

    # ------------------------------------------------ containers

    def _items(self, items: Any, current: Any) -> Iterable[Any]:
        if isinstance(items, Mapping):
            return items["python"].tolist() if "python" in items else list(items["numpy"])
        there: Sequence[Any] = list(current) if isinstance(current, (list, tuple, deque)) else ()
        # One that is new may be of the class of its neighbours.
        last = there[-1] if there else None
        return [self.value(item, there[i] if i < len(there) else last) for i, item in enumerate(items)]

    def _row(self, encoded: Mapping[str, Any], current: Any) -> Any:
        return self._keep(list(self._items(encoded["items"], None)))

    def _named(self, encoded: Mapping[str, Any], current: Any) -> Any:
        kind = self._class(encoded["class"], current, lambda found: issubclass(found, tuple))
        return tuple.__new__(kind, self._items(encoded["items"], current))

    def _dict(self, encoded: Mapping[str, Any], current: Any) -> Any:
        there = current if isinstance(current, Mapping) else {}
        name = encoded.get("of")
        made: Any
        if name == "defaultdict":
            made = defaultdict(_FACTORIES[encoded["factory"]] if "factory" in encoded else None)
        else:
            made = _DICTS[name]() if name is not None else {}
        self._keep(made)
        items = encoded["items"]
        last = next(reversed(list(there.values())), None) if there else None
        for key, part in items.items() if isinstance(items, Mapping) else items:
            key = self.value(key, None)
            made[key] = self.value(part, there[key] if key in there else last)
        return made

    def _deque(self, encoded: Mapping[str, Any], current: Any) -> Any:
        made: deque[Any] = deque(maxlen=encoded["maxlen"])
        self._made.append(made)
        made.extend(self._items(encoded["items"], current))
        return made

    def _set(self, encoded: Mapping[str, Any], current: Any) -> Any:
        number = len(self._made)
        self._made.append(None)
        items = [self.value(item, None) for item in encoded["items"]]
        self._made[number] = made = frozenset(items) if encoded["frozen"] else set(items)
        return made

    # ------------------------------------------------ numbers

    def _foreign(self, encoded: Mapping[str, Any], current: Any) -> Any:
        array = encoded["array"]
        if not isinstance(current, np.ndarray) or current.shape != array.shape or current.base is None:
            raise Mismatch("is a view of memory that is not Python's, and is none here")
        if current.flags.writeable:
            current[...] = array
        return self._keep(current)

    def _objects(self, encoded: Mapping[str, Any], current: Any) -> Any:
        made = np.empty(math.prod(encoded["shape"]), dtype=object)
        self._made.append(shaped := made.reshape(encoded["shape"]))
        there = list(current.flat) if isinstance(current, np.ndarray) else None
        for index, item in enumerate(self._items(encoded["items"], there)):
            made[index] = item
        return shaped

    def _raw(self, encoded: Mapping[str, Any], current: Any) -> Any:
        dtype = np.dtype(str(encoded["dtype"]))
        if dtype.kind not in "SUmM":
            raise Mismatch(f"is an array of {dtype}")
        return self._keep(np.frombuffer(encoded["content"], dtype).reshape(encoded["shape"]).copy())

    def _turned(self, encoded: Mapping[str, Any], current: Any) -> Any:
        return self._keep(encoded["array"].copy().transpose(np.argsort(encoded["axes"])))

    def _scalar(self, encoded: Mapping[str, Any], current: Any) -> Any:
        array = encoded["array"]
        return (self.value(array, None) if isinstance(array, Mapping) else array)[()]

    # ------------------------------------------------ random generators

    def _generator(self, encoded: Mapping[str, Any], current: Any) -> Any:
        state = encoded["state"]
        name = state["bit_generator"]
        fits = isinstance(current, np.random.Generator) and type(current.bit_generator).__name__ == name
        if not fits or not self._free(current):
            if name not in kinds.BIT_GENERATORS:
                raise Mismatch(f"is a generator of the kind {name!r}, which NumPy does not know")
            current = np.random.Generator(getattr(np.random, name)())
        current.bit_generator.state = dict(state)
        return self._keep(current)

    def _random(self, encoded: Mapping[str, Any], current: Any) -> Any:
        generator = current if type(current) is random.Random and self._free(current) else random.Random()
        generator.setstate((encoded["version"], tuple(encoded["words"].tolist()), encoded["gauss"]))
        return self._keep(generator)

    def _random_state(self, encoded: Mapping[str, Any], current: Any) -> Any:
        fits = isinstance(current, np.random.RandomState) and self._free(current)
        generator = current if fits else np.random.RandomState()
        generator.set_state(dict(encoded["state"]))
        return self._keep(generator)

    def _torch_generator(self, encoded: Mapping[str, Any], current: Any) -> Any:
        if current is None:
            raise Mismatch("is a generator of torch and is None here")
        current.set_state(encoded["state"])
        return self._keep(current)

    def _space(self, encoded: Mapping[str, Any], current: Any) -> Any:
        shape = None if encoded["shape"] is None else tuple(encoded["shape"])
        if not isinstance(current, spaces.Space):
            raise Mismatch("is a space and is none here")
        if (type(current).__name__, current._shape) != (encoded["of"], shape):
            raise Mismatch(f"is a {encoded['of']} of shape {shape} and is {current} here")
        self._made.append(current)
        if encoded["state"] is None:
            current._np_random = None  # type: ignore[assignment]
        else:
            generator = current.np_random
            if type(generator.bit_generator).__name__ != encoded["state"]["bit_generator"]:
                raise Mismatch(f"draws from {encoded['state']['bit_generator']}, and not here")
            generator.bit_generator.state = dict(encoded["state"])
        for part, space in zip(encoded["parts"], parts_of(current), strict=True):
            self.value(part, space)
        return current

    # ------------------------------------------------ objects

    def _enum(self, encoded: Mapping[str, Any], current: Any) -> Any:
        kind: Any = self._class(encoded["class"], current, lambda found: issubclass(found, enum.Enum))
        return kind[encoded["name"]] if "name" in encoded else kind(encoded["value"])

    def _method(self, encoded: Mapping[str, Any], current: Any) -> Any:
        owner = self.value(encoded["of"], getattr(current, "__self__", None))
        return getattr(owner, encoded["name"])

    def _setup(self, encoded: Mapping[str, Any], current: Any) -> Any:
        if current is None or kinds.label(current) != encoded["is"]:
            raise Mismatch(f"is {encoded['is']} and is {'None' if current is None else kinds.label(current)} here")
        return current

    def _own(self, encoded: Mapping[str, Any], current: Any) -> Any:
        if current is None:
            raise Mismatch("is an environment and is None here")
        self._made.append(current)
        current.set_state(self.value(encoded["state"], None))
        return current

    def _object(self, encoded: Mapping[str, Any], current: Any) -> Any:
        name = encoded["class"]
        kind = self._class(name, current, lambda found: is_dataclass(found) or self._is_of_an_env(found))
        made = current if type(current) is kind and self._free(current) else None
        if made is None or (is_dataclass(kind) and kind.__dataclass_params__.frozen):  # type: ignore[attr-defined]
            made = object.__new__(kind)
            # What is setup comes from the object that was here.
            for member, value in kinds.members(current) if type(current) is kind else ():
                kinds.set_member(made, member, value)
        self._made.append(made)
        self.attributes(made, encoded["state"], frozenset())
        return made

    def _is_of_an_env(self, kind: type) -> bool:
        return kinds.is_pure_python(kind) and any(
            kind.__module__ == base.__module__ for layer in self._layers for base in type(layer).__mro__
        )

    def _class(self, name: str, current: Any, allowed: Callable[[Any], bool]) -> type:
        """Find a class without importing anything: a state may come from a file."""
        if kinds.class_name(type(current)) == name:
            self._classes[name] = type(current)
        kind = self._classes.get(name) or kinds.loaded_class(name)
        if kind is None or not (name in self._classes or allowed(kind)):
            raise Mismatch(f"holds a {name.partition(':')[2]}, of which there is none here")
        return kind


_GIVERS: dict[str, Callable[[Giver, Mapping[str, Any], Any], Any]] = {
    "row": Giver._row,
    "named": Giver._named,
    "dict": Giver._dict,
    "deque": Giver._deque,
    "set": Giver._set,
    "foreign": Giver._foreign,
    "objects": Giver._objects,
    "raw": Giver._raw,
    "turned": Giver._turned,
    "scalar": Giver._scalar,
    "bytearray": lambda giver, encoded, current: giver._keep(bytearray(encoded["content"])),
    "generator": Giver._generator,
    "random": Giver._random,
    "random_state": Giver._random_state,
    "torch_generator": Giver._torch_generator,
    "space": Giver._space,
    "enum": Giver._enum,
    "method": Giver._method,
    "setup": Giver._setup,
    "own": Giver._own,
    "object": Giver._object,
    "kept": lambda giver, encoded, current: current,
    "same": lambda giver, encoded, current: giver._made[encoded["number"]],
    "layer": lambda giver, encoded, current: giver._layers[encoded["number"]],
}
