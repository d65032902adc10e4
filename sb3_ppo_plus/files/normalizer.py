"""Files of VecNormalize: SB3's pickle, read as data, with a digest behind it where this package wrote it."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.errors import DamagedFile, InvalidArgument, UntrustedFile
from sb3_ppo_plus.files.archives import read_bounded
from sb3_ppo_plus.files.known_sb3 import KNOWN_IN_NORMALIZERS
from sb3_ppo_plus.files.pickles import BadPickle, read_pickle
from sb3_ppo_plus.files.rebuild import Rebuilder, Untrusted

#: largest file; statistics have a few numbers for each number of an observation
MAX_BYTES = 2**30
_SEAL = b"\nblake2b "
_MEMBER = "VecNormalize"


def write_normalizer(path: str | os.PathLike[str], normalizer: VecNormalize) -> None:
    """
    Write a file that SB3's ``VecNormalize.load`` opens; it is replaced whole or not at all.

    Behind the pickle stands its digest, which unpickling does not get to.

    :param path: file
    :param normalizer: SB3's wrapper
    """
    content = pickle.dumps(normalizer)
    atomic_write(path, content + _seal(content))


def read_normalizer(path: str | os.PathLike[str], trust: bool = False) -> VecNormalize:
    """
    Read a file that SB3's ``VecNormalize.save`` or this package wrote; nothing in it is run.

    :param path: file
    :param trust: unpickle it, as SB3 does, which runs whatever code is in it
    :return: the wrapper, without its environments
    :raises UntrustedFile: when it asks for classes that are unknown, as a subclass of VecNormalize is
    :raises DamagedFile: when it is not whole, or no such file
    :raises InvalidArgument: when ``trust`` gives something else
    :raises OSError: when it cannot be read
    """
    path = Path(path)
    content = read_bounded(path, MAX_BYTES)
    if trust:
        loaded = pickle.loads(content)
        if not isinstance(loaded, VecNormalize):
            raise InvalidArgument(f"'{path}' holds a {type(loaded).__name__} and no VecNormalize")
        return loaded
    try:
        node, end = read_pickle(content)
        if content[end:] not in (b"", _seal(content[:end])):
            raise BadPickle("its digest is not the one behind it")
        found: Any = Rebuilder(KNOWN_IN_NORMALIZERS).value(node)
    except Untrusted as error:
        raise UntrustedFile(path, "", error.wanted, "give trust=True if you know who made the file") from error
    except BadPickle as error:
        raise DamagedFile(path, _MEMBER, str(error)) from error
    if not isinstance(found, VecNormalize):
        raise DamagedFile(path, _MEMBER, f"it holds a {type(found).__name__} and no VecNormalize")
    return found


def _seal(content: bytes) -> bytes:
    return _SEAL + hashlib.blake2b(content, digest_size=16).hexdigest().encode()
