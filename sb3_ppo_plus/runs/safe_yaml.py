"""YAML that stays as large as it looks, and holds plain values only."""

from __future__ import annotations

from typing import Any

import yaml

#: longest text, deepest nesting, and most values once every reference is written out
MAX_LETTERS, MAX_DEPTH, MAX_VALUES = 4 * 2**20, 50, 200_000


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """
    Read YAML without building anything but plain values.

    :param text: YAML
    :param loader: PyYAML's safe loader, or a subclass that knows more plain values
    :return: what it holds
    :raises yaml.YAMLError: for what is no YAML, asks for objects of Python, or is larger than a configuration can be
    """
    _check_size(text)
    return yaml.load(text, Loader=loader)


def _check_size(text: str) -> None:
    """Count values as often as they are referred to: twenty lines can ask for a million million of them."""
    if len(text) > MAX_LETTERS:
        raise yaml.YAMLError(f"it has {len(text)} letters, more than the {MAX_LETTERS} of a configuration")
    open_: list[tuple[str | None, int]] = []
    anchors: dict[str, int] = {}
    total = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            total += anchors.get(event.anchor or "", 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            total += 1
            if anchor is not None:
                anchors[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
        if total > MAX_VALUES or len(open_) > MAX_DEPTH:
            raise yaml.YAMLError(f"it has more than {MAX_VALUES} values, or is nested deeper than {MAX_DEPTH}")
