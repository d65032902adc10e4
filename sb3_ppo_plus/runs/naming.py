"""Unknown names, answered with the names that were probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """
    Say which known names are close to an unknown one.

    :param name: what was given
    :param known: all valid names
    :param limit: how many names are offered at most
    :return: ``"did you mean a, b?"``, or an empty string when nothing is close
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), list(by_lower), n=limit, cutoff=0.6)
    return f"did you mean {', '.join(by_lower[match] for match in close)}?" if close else ""
