"""
The state of one Gymnasium environment with its wrappers, layer by layer from the inside out.

A layer that has both ``get_state()`` and ``set_state(state)`` in its class is asked; MuJoCo's and Atari's are known;
of all others the attributes are taken. Nothing here imports torch, for worker processes do this, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym

from sb3_ppo_plus.envs.state import global_generators
from sb3_ppo_plus.envs.state.giving import Giver
from sb3_ppo_plus.envs.state.kinds import SETUP_NAMES
from sb3_ppo_plus.envs.state.physics import capture_physics, has_physics, restore_physics
from sb3_ppo_plus.envs.state.protocol import has_protocol
from sb3_ppo_plus.envs.state.taking import Taker
from sb3_ppo_plus.errors import InvalidArgument

# Moments of a clock, of which the time since then is kept, by the class that has them.
CLOCKS: dict[str, tuple[str, Callable[[], float]]] = {
    "Monitor": ("t_start", time.time),
    "VecMonitor": ("t_start", time.time),
    "RecordEpisodeStatistics": ("episode_start_time", time.perf_counter),
}
# They write what happens into files and windows, and change nothing of it.
_ONLOOKERS = frozenset({"RecordVideo", "RenderCollection", "HumanRendering"})
_REMEDY = "give it get_state() and set_state(state)"


def take_single(taker: Taker, env: gym.Env) -> tuple[list[dict[str, Any]], list[str]]:
    """
    :param taker: of all that belongs together
    :param env: environment with its wrappers
    :return: one mapping of plain data for each layer, the innermost first, and a line for each thing that cannot be
        copied
    """
    layers = layers_of(env)
    taker.meet(layers)
    captured, inexact = [], []
    for layer in layers:
        state, reason = _take_layer(taker, layer)
        captured.append({"layer": layer_name(layer), **state})
        if reason:
            inexact.append(f"{layer_name(layer)} {reason}: {_REMEDY}")
    return captured, inexact


def give_single(giver: Giver, env: gym.Env, states: Sequence[Mapping[str, Any]]) -> None:
    """
    :param giver: of all that belongs together
    :param env: environment made and wrapped like the one whose state it is
    :param states: what :func:`take_single` gave
    :raises InvalidArgument: when the layers differ
    """
    check_single(env, states)
    layers = layers_of(env)
    giver.meet(layers)
    for layer, state in zip(layers, states, strict=True):
        _give_layer(giver, layer, state)


def check_single(env: gym.Env, states: Sequence[Mapping[str, Any]]) -> None:
    """
    :param env: an environment
    :param states: what :func:`take_single` gave
    :raises InvalidArgument: when they are of another environment, or of one with other wrappers
    """
    here, there = [layer_name(layer) for layer in layers_of(env)], [str(state["layer"]) for state in states]
    if here != there:
        raise InvalidArgument(
            f"the state is of {' in '.join(there)} and the environment is {' in '.join(here)}; make and wrap it as it "
            "was"
        )


def capture_single(env: gym.Env) -> tuple[dict[str, Any], list[str]]:
    """
    Take the state of an environment in a process of its own, with that process's random generators.

    :param env: environment with its wrappers
    :return: plain data, and a line for each thing that cannot be copied
    """
    layers, inexact = take_single(Taker(), env)
    return {"layers": layers, "generators": global_generators.take()}, inexact


def restore_single(env: gym.Env, state: Mapping[str, Any]) -> None:
    """
    :param env: environment made and wrapped like the one whose state it is
    :param state: what :func:`capture_single` gave
    :raises InvalidArgument: when the layers differ
    """
    give_single(Giver(), env, state["layers"])
    global_generators.give(state["generators"])


def layers_of(env: Any) -> list[Any]:
    """
    :param env: environment with its wrappers
    :return: environment and wrappers, the innermost first
    """
    layers = [env]
    while isinstance(env, gym.Wrapper):
        env = env.env
        layers.append(env)
    return layers[::-1]


def layer_name(layer: Any) -> str:
    """
    :param layer: environment or wrapper
    :return: what it is called in messages, and recognized by
    """
    spec = getattr(layer, "spec", None) if not isinstance(layer, gym.Wrapper) else None
    return str(spec.id) if spec is not None else type(layer).__name__


def clock_of(layer: Any) -> tuple[str, Callable[[], float]] | None:
    """
    :param layer: environment or wrapper
    :return: name of the attribute that notes a moment, and the clock; None where there is none
    """
    for base in type(layer).__mro__:
        name, clock = CLOCKS.get(base.__name__, ("", time.time))
        # Minus one is no moment yet.
        if name and vars(layer).get(name, -1) >= 0:
            return name, clock
    return None


def _take_layer(taker: Taker, layer: Any) -> tuple[dict[str, Any], str]:
    if type(layer).__name__ in _ONLOOKERS:
        return {}, ""
    if has_protocol(layer):
        own, reason = taker.own(layer.get_state())
        return {"own": own}, reason and f"has a get_state() that gives {reason}"
    state: dict[str, Any] = {}
    reasons: list[str] = []
    skip = SETUP_NAMES | {"env"} if isinstance(layer, gym.Wrapper) else SETUP_NAMES
    if has_physics(layer):
        state["physics"], reason = capture_physics(layer)
        reasons += [reason] if reason else []
        skip |= {"model", "data"}
    elif has_atari(layer):
        state["atari"] = bytes(layer.ale.cloneSystemState().serialize())
        skip |= {"ale", "_action_set"}
        if layer.ale.getFloat("repeat_action_probability") > 0:
            # ale-py's state lacks the action that a sticky one would repeat (seen with 0.12.1).
            reasons.append("repeats actions at random (repeat_action_probability), and ale-py hides the last one")
    elif any(type(value).__module__.startswith("Box2D") for value in vars(layer).values()):
        return state, "(Box2D) keeps its world in C++"
    if type(layer).__module__.startswith("gymnasium.envs.toy_text."):
        skip |= {"P"}  # the table of a whole game
    if (clock := clock_of(layer)) is not None:
        name, now = clock
        state["elapsed"], skip = now() - vars(layer)[name], skip | {name}
    state["attributes"], stuck = taker.attributes(layer, skip)
    reasons += [f"keeps {', '.join(stuck)}, which cannot be copied"] if stuck else []
    return state, " and ".join(reasons)


def _give_layer(giver: Giver, layer: Any, state: Mapping[str, Any]) -> None:
    if "own" in state:
        layer.set_state(giver.value(state["own"], None))
        return
    if "attributes" not in state:
        return
    skip = SETUP_NAMES | {"env"} if isinstance(layer, gym.Wrapper) else SETUP_NAMES
    if "physics" in state:
        restore_physics(layer, state["physics"])
        skip |= {"model", "data"}
    elif "atari" in state:
        ale = layer.ale
        ale.restoreSystemState(type(ale.cloneSystemState())(state["atari"]))
        skip |= {"ale", "_action_set"}
    if type(layer).__module__.startswith("gymnasium.envs.toy_text."):
        skip |= {"P"}
    for name, _ in CLOCKS.values():
        skip |= {name} if "elapsed" in state else frozenset()
    giver.attributes(layer, state["attributes"], skip)
    if "elapsed" in state:
        name, now = next(CLOCKS[base.__name__] for base in type(layer).__mro__ if base.__name__ in CLOCKS)
        setattr(layer, name, now() - state["elapsed"])


def has_atari(env: Any) -> bool:
    """
    :param env: an environment without its wrappers
    :return: whether it plays a game through ale-py
    """
    return callable(getattr(vars(env).get("ale"), "cloneSystemState", None))
