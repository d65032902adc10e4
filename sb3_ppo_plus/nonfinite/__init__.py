"""NaN and infinity: found in the step that they come from, before they are learned from."""

from __future__ import annotations

#: what happens to a number that is none, see docs/nan.md
NAN_POLICIES = ("raise", "quarantine", "ignore")
