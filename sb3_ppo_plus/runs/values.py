"""Text to plain values: YAML files, ``key=value`` settings, and the zoo's ``dict(...)`` strings; never ``eval``."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

import yaml

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.safe_yaml import load_yaml

# YAML 1.1 wants a dot and a signed exponent, so PyYAML reads 3e-4 and 1e6 as strings.
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
# The modules whose attributes the zoo's strings use; only the last word counts (nn.ReLU -> relu).
_TORCH_PREFIXES = ("nn", "th.nn", "torch.nn")


def plain(value: Any) -> Any:
    """
    Turn what YAML read into what was meant: ``"3e-4"`` into a float, everywhere inside lists and mappings.

    :param value: any value that a YAML loader gives
    :return: the same structure with number strings turned into floats
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str) and _FLOAT.fullmatch(value.strip()):
        return float(value)
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """
    Read a YAML file whose top level is a mapping.

    :param path: file to read
    :return: its content, with number strings turned into floats
    :raises InvalidArgument: when the file cannot be read; the message names the file and the line
    """
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"cannot read {path}: not a UTF-8 text file; give a YAML file") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise InvalidArgument(f"cannot read {where}: {error.problem or 'not YAML'}; correct that line") from error
    except yaml.YAMLError as error:
        raise InvalidArgument(f"cannot read {path}: {' '.join(str(error).split())}; give a YAML file") from error
    if not isinstance(content, dict):
        raise InvalidArgument(f"{path} holds {_kind(content)}, but a mapping of names to values is needed")
    return {str(key): plain(value) for key, value in content.items()}


def parse_settings(settings: list[str]) -> list[tuple[tuple[str, ...], Any]]:
    """
    Parse ``key=value`` words; a dotted key reaches into a mapping (``policy_kwargs.net_arch=[64, 64]``).

    :param settings: words as given on the command line
    :return: one (path of keys, value) per word, in the given order
    :raises InvalidArgument: when a word has no ``=`` or its value is not YAML
    """
    parsed = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path):
            raise InvalidArgument(f"--set {setting!r} is not of the form key=value; write for example --set n_epochs=5")
        try:
            parsed.append((path, plain(load_yaml(text))))
        except yaml.YAMLError as error:
            raise InvalidArgument(f"--set {setting!r}: the value {text!r} is not YAML; quote it") from error
    return parsed


def apply_setting(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """
    Set one value, reaching into mappings and making those that are missing.

    :param values: mapping to change; it is copied, not edited
    :param path: keys from the outside in
    :param value: new value
    :return: the changed copy
    :raises InvalidArgument: when the path runs through something that is not a mapping
    """
    first, *rest = path
    if not rest:
        return {**values, first: value}
    inner = values.get(first)
    if inner is not None and not isinstance(inner, dict):
        raise InvalidArgument(f"--set {'.'.join(path)}: {first} is {inner!r}, not a mapping; set {first} as a whole")
    return {**values, first: apply_setting(inner or {}, tuple(rest), value)}


def parse_mapping(name: str, text: str) -> dict[str, Any]:
    """
    Read the zoo's string form of a mapping, ``"dict(net_arch=[64, 64], activation_fn=nn.ReLU)"``, without ``eval``.

    Only literals, ``dict(...)`` and names under ``nn.`` are understood; ``nn.ReLU`` becomes the string ``"relu"``.

    :param name: which hyperparameter the text belongs to, for the message
    :param text: the string form
    :return: the mapping with plain values
    :raises InvalidArgument: for anything else
    """
    try:
        value = _literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError) as error:
        raise InvalidArgument(
            f"{name}: cannot read {text!r} ({error}); write it as a YAML mapping, "
            "for example {net_arch: [64, 64], activation_fn: relu}"
        ) from error
    if not isinstance(value, dict):
        raise InvalidArgument(f"{name}: {text!r} is {_kind(value)}, but a mapping is needed")
    return value


def require_number(name: str, value: Any, *, minimum: float, whole: bool = True) -> int | float:
    """
    Check a number that came from a file or the command line.

    :param name: its name, for the message
    :param value: what was given
    :param minimum: smallest value that makes sense
    :param whole: accept whole numbers only (``1e6`` counts as whole)
    :return: the number, an int when ``whole``
    :raises InvalidArgument: when it is not a number, not whole, or too small
    """
    wanted = f"a whole number of at least {minimum:g}" if whole else f"a number of at least {minimum:g}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < minimum or (whole and value != int(value)):
        raise InvalidArgument(f"{name} is {value!r}; give {wanted}")
    return int(value) if whole else value


def _literal(node: ast.expr) -> Any:
    """The value of one node of the small language that ``parse_mapping`` understands."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_literal(operand)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values) if all(keys):
            return {_literal(key): _literal(item) for key, item in zip(keys, values, strict=True) if key}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(word.arg for word in keywords):
            return {str(word.arg): _literal(word.value) for word in keywords}
        case ast.Attribute(value=prefix, attr=attribute) if ast.unparse(prefix) in _TORCH_PREFIXES:
            return attribute.lower()
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not a literal")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
