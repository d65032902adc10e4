"""
The messages of ML-Agents beside the protobuf of today.

``mlagents_envs`` 0.28.0, the newest that installs on Python 3.11 and later, ships message classes that were generated
for protobuf 3; since protobuf 4 they do not import, and onnx and tensorboard need newer ones. What they describe has
not changed since 2021, so a finder takes the description out of each generated file, which it never runs, and has the
protobuf that is installed make the classes.

This module needs nothing of the rest of the package, so that it can be tested against many versions of protobuf.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from functools import cache
from typing import Any

_PACKAGE = "mlagents_envs.communicator_objects"
_MISSING = 'Unity games need mlagents-envs: pip install "sb3-ppo-plus[unity]"'


class MissingUnity(ImportError):
    """The extra ``unity`` is not installed, or cannot be used; the message says what to do."""


class _MessageFinder(importlib.abc.MetaPathFinder):
    """Answers for the generated message modules, and for nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See :meth:`importlib.abc.MetaPathFinder.find_spec`."""
        if not (fullname.startswith(f"{_PACKAGE}.") and fullname.endswith("_pb2")):
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None:
            return None
        return importlib.util.spec_from_loader(fullname, _MessageLoader(found.origin), origin=found.origin)


class _MessageLoader(importlib.abc.Loader):
    """
    Makes a module of message classes.

    :param origin: the generated file
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def exec_module(self, module: types.ModuleType) -> None:
        """See :meth:`importlib.abc.Loader.exec_module`."""
        from google.protobuf import descriptor_pb2, descriptor_pool
        from google.protobuf.internal import builder

        description = read_description(self._origin)
        for dependency in descriptor_pb2.FileDescriptorProto.FromString(description).dependency:
            importlib.import_module(dependency.replace("/", ".").replace(".proto", "_pb2"))
        descriptor = descriptor_pool.Default().AddSerializedFile(description)
        names = vars(module)
        names["DESCRIPTOR"] = descriptor
        builder.BuildMessageAndEnumDescriptors(descriptor, names)
        builder.BuildTopDescriptorsAndMessages(descriptor, module.__name__, names)


def read_description(path: str) -> bytes:
    """
    Take the description of the messages out of a generated file, without running it.

    :param path: the file
    :return: a serialized ``FileDescriptorProto``
    :raises MissingUnity: when there is none in it
    """
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
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
    raise MissingUnity(f"{path} describes no messages; install mlagents-envs 0.28.0 anew")


def install() -> None:
    """
    Make the messages of ``mlagents_envs`` importable; doing it twice is fine.

    :raises MissingUnity: when ``mlagents_envs`` is not installed
    """
    if any(isinstance(finder, _MessageFinder) for finder in sys.meta_path):
        return
    if importlib.util.find_spec("mlagents_envs") is None or importlib.util.find_spec("grpc") is None:
        raise MissingUnity(_MISSING)
    sys.meta_path.insert(0, _MessageFinder())
    if importlib.util.find_spec("distutils") is None:
        sys.modules.setdefault("distutils.version", _distutils_version())
        sys.modules.setdefault("distutils", types.ModuleType("distutils"))


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
