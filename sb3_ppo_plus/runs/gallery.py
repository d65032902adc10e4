"""The models that come with the package: run folders in ``gallery/``, each with a card that tells its origin."""

from __future__ import annotations

from pathlib import Path

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.resources import resource_files, resource_path
from sb3_ppo_plus.runs.naming import did_you_mean

CONFIG, CARD, ONNX = "config.yml", "README.md", "policy.onnx"


def gallery_names() -> list[str]:
    """
    :return: names of the models, which are those of their environments
    """
    found = (Path(name) for name in resource_files("gallery"))
    return sorted(name.parent.as_posix() for name in found if name.name == CONFIG)


def gallery_folder(name: str) -> Path:
    """
    :param name: one of :func:`gallery_names`
    :return: its run folder, for ``load_agent``, ``ppo-plus eval``, ``export`` and ``train --config``
    :raises InvalidArgument: for a name that is not in the gallery
    """
    names = gallery_names()
    if name not in names:
        hint = did_you_mean(name, names, limit=1) or f"there is {', '.join(names)}"
        raise InvalidArgument(f"the gallery has no {name!r}; {hint}")
    return resource_path("gallery", f"{name}/{CONFIG}").parent
