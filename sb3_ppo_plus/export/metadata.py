"""What an ONNX file says about itself: JSON under two keys, and flat keys for other people's programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_ppo_plus.atomic import atomic_path
from sb3_ppo_plus.errors import DamagedFile, InvalidArgument
from sb3_ppo_plus.export.sealing import DIGEST, read_onnx, sealed

SPEC = "sb3_ppo_plus.spec"
VERIFICATION = "sb3_ppo_plus.verification"
SPEC_FORMAT = 1
INSTALL = 'pip install "sb3-ppo-plus[export]"'


def require(module: str) -> Any:
    """
    Import a package of the extra ``export``.

    :param module: its name
    :return: the module
    :raises ImportError: that names the extra
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as missing:
        raise ImportError(f"exporting needs {module}: {INSTALL}") from missing


def load_onnx(path: Path) -> Any:
    """
    :param path: ONNX file
    :return: ``onnx.ModelProto``
    :raises InvalidArgument: when there is no such file
    :raises DamagedFile: when it is no ONNX model, has changed, or refers to other files
    """
    onnx = require("onnx")
    content = read_onnx(path)
    try:
        model = onnx.load_model_from_string(content)
        if not model.graph.output:
            raise ValueError("it has no output")
    except Exception as error:  # protobuf's own class, whichever implementation is there
        raise DamagedFile(path, "", f"it is no ONNX model: {' '.join(str(error).split())[:200]}") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise DamagedFile(path, "", "it refers to numbers in another file; save it in one piece")
    return model


def opset_of(model: Any) -> int:
    """
    :param model: ``onnx.ModelProto``
    :return: version of the standard operators that it asks for, 0 when it asks for none
    """
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def read_metadata(model: Any) -> dict[str, str]:
    """
    :param model: ``onnx.ModelProto``
    :return: its metadata, key to text
    """
    return {entry.key: entry.value for entry in model.metadata_props if entry.key != DIGEST}


def read_json(metadata: dict[str, str], key: str) -> dict[str, Any]:
    """
    :param metadata: metadata of a file
    :param key: :data:`SPEC` or :data:`VERIFICATION`
    :return: the mapping under it, empty when there is none
    :raises InvalidArgument: when it is no JSON mapping
    """
    text = metadata.get(key)
    if text is None:
        return {}
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("no mapping")
    except ValueError as error:
        raise InvalidArgument(f"metadata {key} is damaged ({error}); export the model again") from error
    return value


def to_json(value: Mapping[str, Any]) -> str:
    """
    Write what every JSON reader takes: NaN and infinity become null, NumPy's numbers and arrays plain ones.

    :param value: mapping
    :return: JSON
    :raises InvalidArgument: when something in it has no form in JSON
    """
    return json.dumps(_plain(value, ()), allow_nan=False)


def _plain(value: Any, path: tuple[str, ...]) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, path) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise InvalidArgument(f"{'.'.join(path)} is a {type(value).__name__}, which JSON does not have; give it as text")


def put_metadata(model: Any, entries: dict[str, str]) -> None:
    """
    Write metadata into a model in memory; entries with the same key are replaced.

    :param model: ``onnx.ModelProto``
    :param entries: key to text
    """
    require("onnx").helper.set_model_props(model, {**read_metadata(model), **entries})


def save_onnx(model: Any, path: Path) -> None:
    """
    Write one file, whole or not at all, with a digest of what is in it.

    :param model: ``onnx.ModelProto``
    :param path: its path
    """
    put_metadata(model, {})  # without the digest of the file that it may come from
    with atomic_path(path) as temporary:
        temporary.write_bytes(sealed(model.SerializeToString()))


def store_verification(path: Path, summary: dict[str, Any]) -> None:
    """
    Write the summary of a verification into a file's metadata.

    :param path: ONNX file
    :param summary: what :meth:`Verification.summary` gives
    """
    model = load_onnx(path)
    put_metadata(model, {VERIFICATION: to_json(summary)})
    save_onnx(model, path)
