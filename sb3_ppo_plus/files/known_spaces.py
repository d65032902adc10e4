"""What is rebuilt of NumPy and Gymnasium: arrays, random generators and spaces."""

from __future__ import annotations

import collections
import math
import re
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.files.pickles import BadPickle, Call, Name
from sb3_ppo_plus.files.rebuild import Known, Maker, Rebuilder, check_attributes, classes

_DTYPE = re.compile(r"[biufc]\d{1,2}")
_ORDERS = ("<", ">", "=", "|")
_NDARRAY = Name("numpy", "ndarray")
_GENERATORS = (np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64)
_GENERATOR_NAMES = {kind.__name__: kind for kind in _GENERATORS}
_SCALARS = (np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
_FLOATS = (np.float16, np.float32, np.float64, np.complex64, np.complex128)
#: words of NumPy's pool of entropy
_MAX_POOL = 64


def _dtype(rebuilder: Rebuilder, call: Call) -> np.dtype[Any]:
    kind, _, _ = rebuilder.arguments(call, str, (bool, int), (bool, int))
    order = call.state[0][1] if call.state and isinstance(call.state[0], tuple) and len(call.state[0]) > 1 else "="
    if not _DTYPE.fullmatch(kind) or order not in _ORDERS:
        raise BadPickle(f"arrays of type {kind[:20]!r} are not of numbers")
    return np.dtype(kind).newbyteorder(order)


def _array(raw: bytes, dtype: np.dtype[Any], shape: tuple[Any, ...], order: Any) -> np.ndarray:
    """A writable array of its own."""
    if order not in ("C", "F") or not all(type(length) is int and length >= 0 for length in shape):
        raise BadPickle(f"an array of shape {shape!r} in order {order!r}")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise BadPickle(f"an array of shape {shape} and type {dtype} with {len(raw)} bytes")
    return np.frombuffer(bytearray(raw), dtype).reshape(shape, order=order)


def _from_buffer(rebuilder: Rebuilder, call: Call) -> np.ndarray:
    """NumPy 2.3 and newer also say in which order the axes of an array in no simple order lie."""
    axes = rebuilder.value(call.args[4]) if len(call.args) == 5 else None
    plain = Call(call.function, call.args[:4])
    raw, dtype, shape, order = rebuilder.arguments(plain, (bytes, bytearray), np.dtype, tuple, str)
    if order == "K" and isinstance(axes, tuple) and sorted(axes) == list(range(len(shape))):
        return _array(raw, dtype, shape, "C").transpose(axes)
    return _array(raw, dtype, shape, order)


def _reconstructed(rebuilder: Rebuilder, call: Call) -> np.ndarray:
    if len(call.args) != 3 or call.args[0] != _NDARRAY or len(call.state) != 1:
        raise BadPickle("an array that is no plain one")
    version, shape, dtype, fortran, raw = rebuilder.value(call.state[0])
    if version != 1 or not (isinstance(shape, tuple) and isinstance(dtype, np.dtype) and isinstance(raw, bytes)):
        raise BadPickle("an array without shape, type and bytes")
    return _array(raw, dtype, shape, "F" if fortran else "C")


def _scalar(rebuilder: Rebuilder, call: Call) -> Any:
    dtype, raw = rebuilder.arguments(call, np.dtype, bytes)
    return _array(raw, dtype, (), "C")[()]


def _seed_sequence(rebuilder: Rebuilder, call: Call) -> np.random.SeedSequence:
    if len(call.args) != 3 or call.args[0] != Name("numpy.random.bit_generator", "SeedSequence") or not call.state:
        raise BadPickle("a seed sequence without its numbers")
    entropy, spawned, _, pool_size, spawn_key = rebuilder.value(call.state[0])[:5]
    whole = [spawned, pool_size, *spawn_key, *(entropy if isinstance(entropy, (list, tuple)) else [entropy])]
    if not all(type(number) is int for number in whole) or not 4 <= pool_size <= _MAX_POOL:
        raise BadPickle("a seed sequence of what are no whole numbers")
    return np.random.SeedSequence(entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=spawned)


def _bit_generator(rebuilder: Rebuilder, call: Call) -> np.random.BitGenerator:
    (kind,) = call.args
    kind = _GENERATOR_NAMES.get(kind.name if isinstance(kind, Name) else kind)
    if kind is None or len(call.state) != 1:
        raise BadPickle("a random generator of an unknown kind")
    state = rebuilder.value(call.state[0])
    state, seeds = state if isinstance(state, tuple) else (state, None)
    made: np.random.BitGenerator = kind(seeds if isinstance(seeds, np.random.SeedSequence) else 0)
    made.state = state
    return made


def _generator(rebuilder: Rebuilder, call: Call) -> np.random.Generator:
    """NumPy 2 gives the bit generator; NumPy 1 its name, what makes it, and its state afterwards."""
    bits = call.args[0] if call.args else None
    if isinstance(bits, str):
        bits = Call(call.function, (bits,), state=call.state)
        return np.random.Generator(_bit_generator(rebuilder, bits))
    if call.state and call.state != [None]:
        raise BadPickle("a random generator with two states")
    made = rebuilder.value(bits)
    if not isinstance(made, np.random.BitGenerator):
        raise BadPickle("a random generator of something else")
    return np.random.Generator(made)


def _old_generator(rebuilder: Rebuilder, call: Call) -> None:
    """Spaces of gym had a generator of another kind; Gymnasium's make their own when they are first asked to draw."""


def _encoded(rebuilder: Rebuilder, call: Call) -> bytes:
    """Bytes, as old protocols write them."""
    text, encoding = rebuilder.arguments(call, str, str)
    if encoding != "latin1":
        raise BadPickle(f"text in {encoding[:20]!r}")
    return bytes(text.encode("latin1"))


def _deque(rebuilder: Rebuilder, call: Call) -> collections.deque[Any]:
    items, maxlen = rebuilder.arguments(call, (list, tuple), (int, type(None)))
    return collections.deque([*items, *rebuilder.value(call.items)], maxlen=maxlen)


def ordered_dict(rebuilder: Rebuilder, call: Call) -> collections.OrderedDict[Any, Any]:
    """
    :param rebuilder: who asks
    :param call: of ``OrderedDict``; torch hangs the versions of modules on those that are state dicts
    :return: it
    """
    given = rebuilder.arguments(call, list)[0] if call.args else []
    made = collections.OrderedDict(given)
    made.update(rebuilder.mapping(call.pairs))
    for name, value in rebuilder.state(call).items():
        if name != "_metadata" or not isinstance(value, dict):
            raise BadPickle(f"an ordered mapping has the attribute {name!r}")
        made._metadata = value  # type: ignore[attr-defined]
    return made


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least


def _fits(space: Any) -> bool:
    """Whether a space holds what its methods work with."""
    if not (isinstance(space.dtype, np.dtype) or space.dtype is None):
        return False
    if not (space._np_random is None or isinstance(space._np_random, np.random.Generator)):
        return False
    match space:
        case spaces.Box():
            parts = [space.low, space.high]
            whole = not isinstance(space, HybridSpace) or (
                isinstance(space.continuous, spaces.Box) and isinstance(space.branches, spaces.MultiDiscrete)
            )
            return whole and all(isinstance(part, np.ndarray) and part.shape == space._shape for part in parts)
        case spaces.Discrete():
            return _whole(space.n, 1) and _whole(space.start, -(2**62))
        case spaces.MultiDiscrete():
            return isinstance(space.nvec, np.ndarray) and space.nvec.dtype.kind in "iu" and bool((space.nvec > 0).all())
        case spaces.MultiBinary():
            sizes = space.n if isinstance(space.n, (tuple, list, np.ndarray)) else [space.n]
            return all(_whole(size, 1) for size in sizes)
        case spaces.Dict():
            return isinstance(space.spaces, dict) and all(isinstance(x, spaces.Space) for x in space.spaces.values())
        case spaces.Tuple():
            return isinstance(space.spaces, tuple) and all(isinstance(x, spaces.Space) for x in space.spaces)
    return False


def _space(kind: type[Any]) -> Maker:
    def make(rebuilder: Rebuilder, call: Call) -> spaces.Space[Any]:
        rebuilder.arguments(call)
        attributes = rebuilder.state(call)
        check_attributes(kind, attributes.keys() - {"shape", "np_random"})
        made: Any = object.__new__(kind)
        made.__setstate__(attributes)
        if not _fits(made):
            raise BadPickle(f"a {kind.__name__} that cannot be")
        return made

    return Maker(make, ("state",))


_SPACES = {
    "box": spaces.Box,
    "discrete": spaces.Discrete,
    "multi_discrete": spaces.MultiDiscrete,
    "multi_binary": spaces.MultiBinary,
    "dict": spaces.Dict,
    "tuple": spaces.Tuple,
}

#: arrays, generators, spaces of Gymnasium and gym, deques and ordered mappings
KNOWN = Known(
    values=classes((*_SCALARS, *_FLOATS)),
    makers={
        Name("numpy", "dtype"): Maker(_dtype, ("state",)),
        **{
            Name(f"numpy.{core}.{module}", name): maker
            for core in ("_core", "core")
            for module, name, maker in (
                ("numeric", "_frombuffer", Maker(_from_buffer)),
                ("multiarray", "_reconstruct", Maker(_reconstructed, ("state",))),
                ("multiarray", "scalar", Maker(_scalar)),
            )
        },
        Name("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): Maker(_seed_sequence, ("state",)),
        Name("numpy.random._pickle", "__bit_generator_ctor"): Maker(_bit_generator, ("state",)),
        Name("numpy.random._pickle", "__generator_ctor"): Maker(_generator, ("state",)),
        Name("numpy.random._pickle", "__randomstate_ctor"): Maker(_old_generator, ("state",)),
        Name("_codecs", "encode"): Maker(_encoded),
        Name("collections", "deque"): Maker(_deque, ("items",)),
        Name("collections", "OrderedDict"): Maker(ordered_dict, ("pairs", "state")),
        **{
            Name(f"{library}.spaces.{module}", kind.__name__): _space(kind)
            for library in ("gymnasium", "gym")
            for module, kind in _SPACES.items()
        },
        Name(HybridSpace.__module__, HybridSpace.__qualname__): _space(HybridSpace),
    },
)
