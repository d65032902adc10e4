"""
The messages of ML-Agents beside the protobuf of today.

``mlagents_envs`` 0.28.0, the newest that installs on Python 3.11 and later, ships message classes that were generated
for protobuf 3; since protobuf 4 they do not import, and onnx and tensorboard need newer ones. What they describe has
not changed since 2021, so a finder takes the description out of each generated file, which it never runs, and has the
protobuf that is installed make the classes.

Its own low-level API then imports as well. That one mistakes compressed images of package 3.0 and later, which are
channel-first, for channel-last ones; the finder mends that too, see :func:`patch_visual_layout`.

This module needs nothing of the rest of the package, so that it can be tested against many versions of protobuf.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import types
from collections.abc import Sequence
from functools import cache
from typing import Any

_PACKAGE = "mlagents_envs.communicator_objects"
_RPC_UTILS = "mlagents_envs.rpc_utils"
# Dimension properties of an image that is channel-first: none, translational, translational.
_CHANNEL_FIRST = (1, 2, 2)
_installing = threading.Lock()
_ANEW = 'install mlagents-envs anew: pip install --force-reinstall --no-deps "mlagents-envs==0.28.0"'
_MISSING = 'Unity games need mlagents-envs: pip install "sb3-ppo-plus[unity]"'


class MissingUnity(ImportError):
    """The extra ``unity`` is not installed, or cannot be used; the message says what to do."""


class _MessageFinder(importlib.abc.MetaPathFinder):
    """Answers for the generated message modules and for what decodes images, and for nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See :meth:`importlib.abc.MetaPathFinder.find_spec`."""
        is_message = fullname.startswith(f"{_PACKAGE}.") and fullname.endswith("_pb2")
        if not is_message and fullname != _RPC_UTILS:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or found.loader is None:
            return None
        loader = _MessageLoader(found.loader) if is_message else _RpcUtilsLoader(found.loader)
        return importlib.util.spec_from_loader(fullname, loader, origin=found.origin)


class _RpcUtilsLoader(importlib.abc.Loader):
    """
    Runs ``mlagents_envs.rpc_utils``, and mends it.

    :param loader: what would load it
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def exec_module(self, module: types.ModuleType) -> None:
        """See :meth:`importlib.abc.Loader.exec_module`."""
        self._loader.exec_module(module)
        _patch(module)


class _MessageLoader(importlib.abc.Loader):
    """
    Makes a module of message classes.

    :param loader: what would run the generated file; only asked for its source
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def exec_module(self, module: types.ModuleType) -> None:
        """See :meth:`importlib.abc.Loader.exec_module`."""
        from google.protobuf import descriptor_pb2, descriptor_pool
        from google.protobuf.internal import builder

        description = read_description(self._loader.get_source(module.__name__) or "", module.__name__)
        for dependency in descriptor_pb2.FileDescriptorProto.FromString(description).dependency:
            importlib.import_module(dependency.replace("/", ".").replace(".proto", "_pb2"))
        descriptor = descriptor_pool.Default().AddSerializedFile(description)
        names = vars(module)
        names["DESCRIPTOR"] = descriptor
        builder.BuildMessageAndEnumDescriptors(descriptor, names)
        builder.BuildTopDescriptorsAndMessages(descriptor, module.__name__, names)


def read_description(source: str, name: str) -> bytes:
    """
    Take the description of the messages out of a generated module, without running it.

    :param source: its text
    :param name: its name, for the error
    :return: a serialized ``FileDescriptorProto``
    :raises MissingUnity: when there is none in it
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
            value: ast.expr | None = node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile":
            value = node.args[0]
        else:
            continue
        if isinstance(value, ast.Call):  # _b('...'), of the days of Python 2
            value = value.args[0]
        if isinstance(value, ast.Constant) and isinstance(value.value, (str, bytes)):
            return value.value.encode("latin1") if isinstance(value.value, str) else value.value
    raise MissingUnity(f"the source of {name} describes no messages; {_ANEW}")


def install() -> None:
    """
    Make the messages of ``mlagents_envs``, and its low-level API, importable; doing it twice is fine.

    :raises MissingUnity: when ``mlagents_envs`` is not installed, or was imported in a way that left it unusable
    """
    with _installing:
        if any(isinstance(finder, _MessageFinder) for finder in sys.meta_path):
            return
        if not _is_installed("mlagents_envs") or not _is_installed("grpc"):
            raise MissingUnity(_MISSING)
        broken = [name for name, module in sys.modules.items() if _is_broken(name, module)]
        if broken:
            raise MissingUnity(
                f"{', '.join(broken)} did not import with this protobuf, before the messages could be made for it; "
                "start Python anew, and import sb3_ppo_plus.envs.unity before mlagents_envs"
            )
        sys.meta_path.insert(0, _MessageFinder())
        if not _is_installed("distutils"):
            sys.modules["distutils.version"] = _distutils_version()
            sys.modules["distutils"] = types.ModuleType("distutils")
        if _RPC_UTILS in sys.modules:
            _patch(sys.modules[_RPC_UTILS])


def _is_installed(name: str) -> bool:
    """Unlike a bare ``find_spec``, also for what was blocked (None) or put there by hand (without a spec)."""
    if name in sys.modules:
        return sys.modules[name] is not None
    return importlib.util.find_spec(name) is not None


def _is_broken(name: str, module: types.ModuleType | None) -> bool:
    return name.startswith(f"{_PACKAGE}.") and name.endswith("_pb2") and not hasattr(module, "DESCRIPTOR")


def patch_visual_layout() -> None:
    """
    Have ``mlagents_envs`` decode compressed images of either layout; :func:`install` sees to it by itself.

    Version 0.28.0 takes every PNG file for a channel-last observation, as ML-Agents packages up to 2.x send them, and
    refuses those of 3.0 and later. What tells them apart is the sensor's dimension properties.

    :raises MissingUnity: when ``mlagents_envs`` is not installed
    """
    install()
    _patch(importlib.import_module(_RPC_UTILS))


def _patch(rpc_utils: Any) -> None:
    original = rpc_utils._observation_to_np_array
    version = getattr(sys.modules.get("mlagents_envs"), "__version__", "0")
    # From 1.0 on they are all taken for channel-first.
    if hasattr(original, "either_layout") or not version.startswith("0."):
        return

    def observation_to_array(obs: Any, expected_shape: Any = None) -> Any:
        agrees = expected_shape is None or list(expected_shape) == list(obs.shape)
        if obs.compression_type == 0 or tuple(obs.dimension_properties) != _CHANNEL_FIRST or not agrees:
            return original(obs, expected_shape)
        channels, height, width = obs.shape
        turned = type(obs)()
        turned.CopyFrom(obs)
        turned.shape[:] = (height, width, channels)
        return original(turned).transpose(2, 0, 1)

    observation_to_array.either_layout = True  # type: ignore[attr-defined]
    rpc_utils._observation_to_np_array = observation_to_array


def _distutils_version() -> types.ModuleType:
    """All that ``mlagents_envs.environment`` takes from distutils, which Python 3.12 has no more."""

    class StrictVersion:
        def __init__(self, text: str) -> None:
            self.version = tuple(int(part) for part in f"{text}.0.0".split(".")[:3])

    module: Any = types.ModuleType("distutils.version")
    module.StrictVersion = StrictVersion
    return module


@cache
def message_class(module: str, name: str) -> Any:
    """
    Give a class of messages.

    :param module: such as ``unity_message_pb2``
    :param name: such as ``UnityMessageProto``
    :return: the class
    """
    install()
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
