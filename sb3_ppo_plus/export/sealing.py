"""The bytes of an ONNX file: whole, in one piece, and with a digest before them that tells when they have changed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sb3_ppo_plus.errors import DamagedFile, InvalidArgument
from sb3_ppo_plus.files.archives import read_bounded

#: key of the digest among the metadata; it is the first entry of a file, and covers all that follows
DIGEST = "sb3_ppo_plus.digest"
#: protobuf's own limit, in bytes
MAX_BYTES = 2**31
_SIZE = 16
# An entry of metadata_props (field 14) with DIGEST as its key (field 1) and 32 letters as its value (field 2).
_KEY = b"\x0a" + bytes([len(DIGEST)]) + DIGEST.encode() + b"\x12" + bytes([2 * _SIZE])
_HEAD = b"\x72" + bytes([len(_KEY) + 2 * _SIZE]) + _KEY
# Where a tensor's numbers lie in another file: external_data (field 13) with the key "location".
_EXTERNAL = re.compile(rb"j.{1,3}\n\x08location\x12", re.DOTALL)


def sealed(content: bytes) -> bytes:
    """
    :param content: an ONNX model without a digest
    :return: the same model with one; protobuf takes fields in any order
    """
    return _HEAD + hashlib.blake2b(content, digest_size=_SIZE).hexdigest().encode() + content


def read_onnx(path: Path) -> bytes:
    """
    Read an ONNX file. One that another program wrote, or wrote again, has no digest before it, and is read as it is.

    :param path: file
    :return: its bytes
    :raises InvalidArgument: when there is no such file
    :raises DamagedFile: when it has changed since this package wrote it, or refers to other files
    """
    if not path.is_file():
        raise InvalidArgument(f"there is no file {path}; give an ONNX file, which `ppo-plus export` writes")
    content = read_bounded(path, MAX_BYTES)
    if content.startswith(_HEAD):
        start = len(_HEAD) + 2 * _SIZE
        if not content.startswith(sealed(content[start:])[:start]):
            raise DamagedFile(path, "", "its digest is not the one in its metadata")
    elif content[:1] == _HEAD[:1] or DIGEST.encode() in content[: 2 * len(_HEAD)]:  # as no other program begins one
        raise DamagedFile(path, "", "its digest cannot be read")
    if _EXTERNAL.search(content):
        raise DamagedFile(path, "", "it refers to numbers in another file; save it in one piece")
    return content
