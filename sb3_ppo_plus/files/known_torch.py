"""What is rebuilt of torch: tensors from raw bytes, and modules of exact classes."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import nn

from sb3_ppo_plus.files.known_spaces import ordered_dict
from sb3_ppo_plus.files.pickles import BadPickle, Call, Name, Persistent, read_pickle
from sb3_ppo_plus.files.rebuild import Known, Maker, Rebuilder, check_attributes, classes

_STORAGES = {
    Name("torch", f"{name}Storage"): dtype
    for name, dtype in {
        "Double": th.float64,
        "Float": th.float32,
        "Half": th.float16,
        "BFloat16": th.bfloat16,
        "Long": th.int64,
        "Int": th.int32,
        "Short": th.int16,
        "Char": th.int8,
        "Byte": th.uint8,
        "Bool": th.bool,
        "ComplexFloat": th.complex64,
        "ComplexDouble": th.complex128,
    }.items()
}
_LOCATION = re.compile(r"[a-z]{1,16}(:\d{1,4})?")
#: what torch's older format begins with, as it writes it
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
#: hooks that a module may have been given; code, and so never in a file
_HOOKS = re.compile(r"_\w*hooks(_with_kwargs|_always_called)?")


@dataclass(frozen=True)
class Storage:
    """
    Numbers that tensors look into.

    :param flat: all of them, on the CPU [n]
    """

    flat: th.Tensor


def storage_size(key: Any) -> tuple[str, th.dtype, int]:
    """
    :param key: how torch's pickles refer to a storage: ``("storage", class, name, device, elements, ...)``
    :return: its name, its type, and its size in bytes
    :raises BadPickle: for anything else
    """
    parts = tuple(key) if isinstance(key, tuple) else ()
    if len(parts) not in (5, 6) or parts[0] != "storage" or not isinstance(parts[1], Name):
        raise BadPickle("it refers to what is no storage of tensors")
    _, kind, name, location, count = parts[:5]
    if kind not in _STORAGES or parts[5:] not in ((), (None,)):
        raise BadPickle(f"it refers to a storage of type {kind}")
    if not (isinstance(name, str) and isinstance(location, str) and _LOCATION.fullmatch(location)):
        raise BadPickle("it refers to a storage without name and device")
    if type(count) is not int or count < 0:
        raise BadPickle(f"it refers to a storage of {count} elements")
    dtype = _STORAGES[kind]
    return name, dtype, count * dtype.itemsize


def make_storage(raw: bytes, dtype: th.dtype) -> Storage:
    """
    :param raw: bytes of all its elements
    :param dtype: their type
    :return: a storage with a copy of them
    """
    flat = th.empty(len(raw) // dtype.itemsize, dtype=dtype)
    if raw:
        flat.view(th.uint8).copy_(th.frombuffer(bytearray(raw), dtype=th.uint8))
    return Storage(flat)


def _from_bytes(rebuilder: Rebuilder, call: Call) -> Storage:
    """A storage in torch's older format: five pickles, and then its bytes."""
    (raw,) = rebuilder.arguments(call, bytes)
    position, parts = 0, []
    for _ in range(5):
        part, position = read_pickle(raw, position)
        parts.append(part)
    magic, protocol, _, reference, names = parts
    if magic != _MAGIC or protocol != _PROTOCOL or not isinstance(reference, Persistent):
        raise BadPickle("a storage that torch did not write")
    name, dtype, size = storage_size(reference.key)
    body = raw[position + 8 :]
    if names != [name] or raw[position : position + 8] != struct.pack("<q", size // dtype.itemsize):
        raise BadPickle("a storage of several parts")
    if len(body) != size:
        raise BadPickle(f"a storage of {size} bytes with {len(body)}")
    return make_storage(body, dtype)


def _tensor(rebuilder: Rebuilder, call: Call) -> th.Tensor:
    args = [rebuilder.value(argument) for argument in call.args]
    if len(args) != 6 or not isinstance(args[0], Storage):
        raise BadPickle("a tensor without a storage")
    storage, offset, size, stride, requires_grad, hooks = args
    lengths = [offset, *size, *stride]
    if hooks or len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in lengths):
        raise BadPickle(f"a tensor of size {size!r} and stride {stride!r}")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) > storage.flat.numel() or (math.prod(size) and last >= storage.flat.numel()):
        raise BadPickle(f"a tensor of size {size!r} in a storage of {storage.flat.numel()} elements")
    return storage.flat.as_strided(size, stride, offset).requires_grad_(bool(requires_grad))


def _parameter(rebuilder: Rebuilder, call: Call) -> nn.Parameter:
    data, requires_grad, hooks = rebuilder.arguments(call, th.Tensor, bool, dict)
    if hooks:
        raise BadPickle("a parameter with hooks")
    return nn.Parameter(data, requires_grad=requires_grad)


def _device(rebuilder: Rebuilder, call: Call) -> th.device:
    return th.device(*(rebuilder.value(argument) for argument in call.args))


#: tensors by their storages, as they are in a file of weights
TENSORS = Known(
    makers={
        Name("torch._utils", "_rebuild_tensor_v2"): Maker(_tensor),
        Name("torch._utils", "_rebuild_parameter"): Maker(_parameter),
        Name("collections", "OrderedDict"): Maker(ordered_dict, ("pairs", "state")),
    }
)


def module(kind: type[Any]) -> Maker:
    """
    :param kind: class of modules without code beyond their class
    :return: how one is rebuilt, without its constructor
    """

    def make(rebuilder: Rebuilder, call: Call) -> nn.Module:
        rebuilder.arguments(call)
        made: nn.Module = object.__new__(kind)
        fill_module(made, rebuilder.state(call))
        return made

    return Maker(make, ("state",))


def fill_module(made: nn.Module, attributes: dict[str, Any]) -> None:
    """
    Give a module its attributes.

    :param made: a module whose constructor did not run
    :param attributes: of the module, with parameters, buffers and modules inside
    :raises BadPickle: for hooks, methods and whatever else is no part of a module
    """
    for name, value in attributes.items():
        if _HOOKS.fullmatch(name) and value:
            raise BadPickle(f"a {type(made).__name__} with hooks")
    for name, kind in (("_parameters", nn.Parameter), ("_buffers", th.Tensor), ("_modules", nn.Module)):
        parts = attributes.get(name)
        if not isinstance(parts, dict) or not all(part is None or isinstance(part, kind) for part in parts.values()):
            raise BadPickle(f"a {type(made).__name__} whose {name} are something else")
        check_attributes(type(made), map(str, parts))
    check_attributes(type(made), attributes)
    nn.Module.__setstate__(made, attributes)


_ACTIVATIONS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.LogSoftmax, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid),
    *(nn.Softmax, nn.Softmin, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold),
)
_LAYERS = (
    *(nn.Linear, nn.Identity, nn.Flatten, nn.Unflatten, nn.Sequential, nn.ModuleList, nn.ModuleDict),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Embedding),
)
_OPTIMIZERS = (
    *(th.optim.Adadelta, th.optim.Adagrad, th.optim.Adam, th.optim.AdamW, th.optim.Adamax, th.optim.ASGD),
    *(th.optim.NAdam, th.optim.RAdam, th.optim.RMSprop, th.optim.Rprop, th.optim.SGD),
)

#: tensors, layers, and the classes that arguments of policies name
KNOWN = TENSORS | Known(
    values=classes((*_ACTIVATIONS, *_LAYERS, *_OPTIMIZERS)),
    makers={
        Name("torch.storage", "_load_from_bytes"): Maker(_from_bytes),
        Name("torch", "device"): Maker(_device),
        **{name: module(kind) for name, kind in classes((*_ACTIVATIONS, *_LAYERS)).items()},
    },
)
