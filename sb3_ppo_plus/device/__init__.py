"""Rollouts and updates whose rows never leave the device that environments and policy live on."""

from __future__ import annotations
