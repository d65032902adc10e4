"""Zips of models, opened without running anything that is in them."""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_ppo_plus.errors import DamagedFile, InvalidArgument, UntrustedFile
from sb3_ppo_plus.files.archives import MAX_BYTES, read_bounded, read_members
from sb3_ppo_plus.files.known_sb3 import KNOWN_IN_MODELS, whole_numbers
from sb3_ppo_plus.files.known_torch import module
from sb3_ppo_plus.files.pickles import BadPickle, Name
from sb3_ppo_plus.files.rebuild import Known, Untrusted, load_known, record
from sb3_ppo_plus.files.weights import largest_dimension, read_state

_MEMBER = re.compile(
    r"data|_stable_baselines3_version|system_info\.txt|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\.pth"
    r"|ppo_plus/(state\.json|state\.bin|manifest\.json)"
)
_VARIABLES = ("pytorch_variables.pth", "tensors.pth")
_MARK = ":serialized:"
#: largest description of a model; a reference policy is in it
_MAX_DATA = 2**30
#: what a model needs only to go on with the step at which it was saved, or makes anew; dropped when it is unknown
_MOMENTARY = (
    *("_last_obs", "_last_original_obs", "_last_episode_starts", "_last_lstm_states", "lr_schedule"),
    *("ep_info_buffer", "ep_success_buffer", "rollout_buffer", "_logger"),
)
#: a layer of this many units, and this many layers, are small enough to be made without a look at the weights
_SMALL, _FEW = 512, 50
_PIECE = 2**24
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, AssertionError, EOFError)


@dataclass(frozen=True)
class ModelZip:
    """
    A model as its file describes it.

    :param shown: file, for errors
    :param plain: attributes that are numbers, text, lists and mappings
    :param pickled: pickles of the other attributes
    :param states: state dicts of the policy and of its optimizer, by member name without suffix
    :param notes: text members: versions and system
    """

    shown: object
    plain: dict[str, Any]
    pickled: dict[str, bytes]
    states: dict[str, dict[str, Any]]
    notes: dict[str, str]


def read_model(source: Any, with_data: bool = True) -> ModelZip:
    """
    Read the zip of a model; sizes are bounded, and nothing is executed.

    :param source: path (".zip" is added when there is no such file), or a binary stream
    :param with_data: whether its attributes are needed, or its weights alone
    :return: its parts
    :raises DamagedFile: naming the member and what is wrong with it
    :raises OSError: when there is no such file
    """
    content, shown = read_source(source)
    members = read_members(content, shown, lambda name: bool(_MEMBER.fullmatch(name)))
    plain, pickled = _read_data(members, shown) if with_data else ({}, {})
    for name in _VARIABLES:
        if name in members and read_state(members[name], shown, name):
            raise DamagedFile(shown, name, "it holds variables that no model of PPO has")
    states = {
        name.removesuffix(".pth"): read_state(content, shown, name)
        for name, content in members.items()
        if name.endswith(".pth") and name not in _VARIABLES
    }
    for name in ("policy", "policy.optimizer"):
        if name not in states:
            raise DamagedFile(shown, f"{name}.pth", "it is missing")
    notes: dict[str, str] = {
        name: members[name].decode("utf-8", "replace")
        for name in ("_stable_baselines3_version", "system_info.txt")
        if name in members
    }
    return ModelZip(shown, plain, pickled, states, notes)


def read_source(source: Any) -> tuple[bytes, object]:
    """
    :param source: path, with or without ".zip", or a binary stream
    :return: its content, and what errors call it
    :raises DamagedFile: when it is too large
    :raises OSError: when it cannot be read
    """
    if not isinstance(source, (str, os.PathLike)):
        name, content = getattr(source, "name", None), bytearray()
        shown: object = name if isinstance(name, (str, os.PathLike)) else "the stream"
        if source.seekable():
            source.seek(0)  # a zip is found from its end, wherever the stream stands
        while piece := source.read(_PIECE):  # a buffered file reserves all that it is asked for
            content += piece
            if len(content) > MAX_BYTES:
                raise DamagedFile(shown, "", f"it has more than {MAX_BYTES} bytes")
        return bytes(content), shown
    path = Path(source)
    if not path.exists() and Path(f"{path}.zip").exists():
        path = Path(f"{path}.zip")
    return read_bounded(path), path


def _read_data(members: Mapping[str, bytes], shown: object) -> tuple[dict[str, Any], dict[str, bytes]]:
    content = members.get("data")
    if content is None:
        raise DamagedFile(shown, "data", "it is missing")
    if len(content) > _MAX_DATA:
        raise DamagedFile(shown, "data", f"it has {len(content)} bytes")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(shown, "data", f"it is no JSON: {str(error)[:150]}") from error
    if not isinstance(data, dict):
        raise DamagedFile(shown, "data", "it holds no attributes")
    plain, pickled = {}, {}
    for name, value in data.items():
        if not isinstance(value, dict) or _MARK not in value:
            plain[name] = value
            continue
        try:
            pickled[name] = base64.b64decode(value[_MARK], validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise DamagedFile(shown, f"data/{name}", f"it is no base64: {error}") from error
    return plain, pickled


def rebuild_attributes(
    model: ModelZip, kind: type[Any], custom_objects: Mapping[str, Any] | None = None, known: Known = KNOWN_IN_MODELS
) -> dict[str, Any]:
    """
    Give the attributes of a model that are no plain values.

    :param model: what was read
    :param kind: class of the model
    :param custom_objects: replacements of attributes by their names, which are not looked at; and classes by theirs
        with their module, ``"my_module.MyPolicy"``
    :param known: what may be in the others
    :return: attributes by name
    :raises UntrustedFile: for one that asks for something unknown
    :raises DamagedFile: for one that is not whole, and for names that are no attributes
    """
    custom_objects = custom_objects or {}
    known = known | _given_classes(custom_objects)
    found = {name: custom_objects[name] for name in custom_objects if name in model.plain or name in model.pickled}
    for name in (*model.plain, *model.pickled):
        if name.startswith("__") or name == "env" or callable(getattr(kind, name, None)):
            raise DamagedFile(model.shown, f"data/{name}", f"a {kind.__name__} has no such attribute to be saved")
    for name, content in model.pickled.items():
        if name in found:
            continue
        try:
            found[name] = load_known(content, known)
        except Untrusted as error:
            if name not in _MOMENTARY:
                class_ = f"{{{error.wanted!r}: ...}} or " if " " not in error.wanted else ""
                remedy = f"give custom_objects={class_}{{{name!r}: ...}}, or trust=True if you know who made the file"
                raise UntrustedFile(model.shown, f"data/{name}", error.wanted, remedy) from error
        except BadPickle as error:
            raise DamagedFile(model.shown, f"data/{name}", str(error)) from error
    _check_attributes(model, found, custom_objects)
    return found


def _given_classes(custom_objects: Mapping[str, Any]) -> Known:
    """Classes that the user gives by their full names; instances of them get their attributes without a call."""
    values: dict[Name, Any] = {}
    for key, value in custom_objects.items():
        if isinstance(value, type):
            own = Name(value.__module__, value.__qualname__)
            values[own if str(own) == key else Name(*key.rpartition(".")[::2])] = value
        elif "." in key:
            values[Name(*key.rpartition(".")[::2])] = value
    kinds = {name: kind for name, kind in values.items() if isinstance(kind, type)}
    return Known(
        values, {name: module(kind) if issubclass(kind, th.nn.Module) else record(kind) for name, kind in kinds.items()}
    )


def _check_attributes(model: ModelZip, found: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> None:
    """Refuse what would become a network of another size than the weights have, or be read from somewhere else."""
    for name, holds in (
        ("policy_class", isinstance(found.get("policy_class"), type) and issubclass(found["policy_class"], BasePolicy)),
        ("observation_space", isinstance(found.get("observation_space"), spaces.Space)),
        ("action_space", isinstance(found.get("action_space"), spaces.Space)),
        ("reference_policy", not isinstance(model.plain.get("reference_policy"), str)),
    ):
        if not holds and name not in custom_objects:
            raise DamagedFile(model.shown, f"data/{name}", "it is missing, or something else")
    if custom_objects.keys() & {"policy_class", "policy_kwargs", "observation_space", "action_space"}:
        return
    weights = model.states["policy"]
    largest, most = max(largest_dimension(weights), _SMALL), len(weights) + _FEW
    everything = {**model.plain, **found}
    for name in ("policy_kwargs", "observation_space", "action_space"):
        numbers = whole_numbers(everything.get(name))
        if max(numbers, default=0) > largest or (name == "policy_kwargs" and len(numbers) > most):
            raise DamagedFile(model.shown, f"data/{name}", "it asks for larger networks than the weights are for")


def plain_zip(model: ModelZip, names: Mapping[str, Any]) -> io.BytesIO:
    """
    Write a model again, with no pickle of the file in it.

    :param model: what was read
    :param names: attributes that come as custom objects
    :return: a zip that SB3's ``load`` takes
    """
    buffer = io.BytesIO()
    data = {**{name: value for name, value in model.plain.items() if name not in names}, **dict.fromkeys(names)}
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", json.dumps(data))
        for name, state in model.states.items():
            with archive.open(f"{name}.pth", "w", force_zip64=True) as file:
                th.save(state, file)
        for name, text in model.notes.items():
            archive.writestr(name, "".join(letter for letter in text if letter.isprintable() or letter == "\n"))
    buffer.seek(0)
    return buffer


def load_untrusted(
    load: Callable[..., Any],
    kind: type[Any],
    source: Any,
    custom_objects: Mapping[str, Any] | None = None,
    known: Known = KNOWN_IN_MODELS,
    *,
    kwargs: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """
    Open a model with SB3's own ``load``, which gets nothing of the file but numbers and what was rebuilt from it.

    :param load: SB3's ``load`` of the class
    :param kind: the class
    :param source: path or binary stream
    :param custom_objects: as for SB3
    :param known: what attributes may hold
    :param kwargs: attributes to change, as for SB3
    :param arguments: further arguments of ``load``
    :return: the model
    :raises UntrustedFile: when the file asks for something unknown
    :raises DamagedFile: when it is not whole, or describes no model
    """
    model = read_model(source)
    found = rebuild_attributes(model, kind, custom_objects, known)
    try:
        return load(plain_zip(model, found), custom_objects=found, **arguments, **(kwargs or {}))
    except (*_UNREADABLE, MemoryError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300]
        # What was given beside the file can be what does not fit; the error then says it as SB3 does.
        given = custom_objects or kwargs or (arguments.get("env") is not None and isinstance(error, InvalidArgument))
        if given or "spaces do not match" in reason:
            raise
        described = reason if isinstance(error, InvalidArgument) else f"{type(error).__name__}: {reason}"
        raise DamagedFile(model.shown, "data", f"it describes no {kind.__name__}: {described}") from error
