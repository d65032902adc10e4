"""The state of vectorized environments with their wrappers, from the inside out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.processes.vec_env import ProcessVecEnv
from sb3_ppo_plus.envs.state.giving import Giver
from sb3_ppo_plus.envs.state.kinds import SETUP_NAMES
from sb3_ppo_plus.envs.state.protocol import has_protocol
from sb3_ppo_plus.envs.state.single import check_single, clock_of, give_single, take_single
from sb3_ppo_plus.envs.state.taking import Taker
from sb3_ppo_plus.errors import InvalidArgument

# What SB3's classes have beside their state: what is inside, and buffers that every step fills anew.
_OF_A_WRAPPER = SETUP_NAMES | {"venv", "class_attributes"}
# Methods that stand behind others while a training runs.
_WATCHED = frozenset({"reset", "step_async", "step_wait"})
_OF_A_DUMMY = (
    SETUP_NAMES | _WATCHED | {"envs", "num_envs", "actions", "keys", "buf_obs", "buf_dones", "buf_rews", "buf_infos"}
)
_OF_ALL = ("_seeds", "_options", "reset_infos", "observation_space", "action_space")
# What a tensor wrapper leaves out of its state_dict(): switches, and what the last step gave.
_OF_TENSORS = (*_OF_ALL, "training", "norm_obs", "norm_reward", "_old_obs", "_old_rewards")
# It writes what happens into files, and changes nothing of it.
_ONLOOKER = "VecVideoRecorder"
_REMEDY = "give it get_state() and set_state(state)"

State = dict[str, Any]


@dataclass(frozen=True)
class EnvState:
    """
    The state of environments at one moment, as a copy.

    :param tree: plain data: mappings with text as keys, lists, tuples, numbers, text, bytes, arrays and tensors
    :param inexact: what could not be copied, one line each, so that going on from here will differ; mostly empty
    """

    tree: State
    inexact: list[str] = field(default_factory=list)


def capture_env(env: VecEnv) -> EnvState:
    """
    Take the state of environments, between two steps: of each environment and wrapper, with its random generators.

    :param env: environments, with all their wrappers
    :return: the state
    """
    taker = Taker()
    states: list[State] = []
    inexact: list[str] = []
    layers = _layers(env)
    taker.meet(layers)
    for index, layer in enumerate(layers):
        # A tensor wrapper's state holds that of what is inside, so the outermost one has all.
        if isinstance(layer, TensorVecEnv):
            inside = index + 1 < len(layers) and isinstance(layers[index + 1], TensorVecEnv)
            state, reasons = _take_tensors(taker, layer, inside)
        else:
            state, reasons = _take_layer(taker, layer)
        states.append({"layer": type(layer).__name__, "num_envs": layer.num_envs, **state})
        inexact += reasons
    return EnvState({"layers": states}, _counted(inexact))


def restore_env(env: VecEnv, tree: Mapping[str, Any]) -> None:
    """
    Put environments into a state: their next step is, bit for bit, the one that would have followed there.

    :param env: environments that were made and wrapped like those whose state it is; whether they were reset does not
        matter
    :param tree: ``EnvState.tree``
    :raises InvalidArgument: when the environments or their wrappers differ; those that were refused late, for a value
        that does not fit, are in no state to go on
    """
    layers = _layers(env)
    try:
        _check(layers, tree)
        giver = Giver()
        giver.meet(layers)
        for layer, state in zip(layers, tree["layers"], strict=True):
            _give_layer(giver, layer, state)
    except InvalidArgument:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InvalidArgument(
            f"tree is no state of these environments ({type(error).__name__}: {error}); give what capture_env() gave "
            "of environments that were made and wrapped in the same way"
        ) from error


def _check(layers: list[Any], tree: Mapping[str, Any]) -> None:
    here, there = [type(layer).__name__ for layer in layers], [str(state["layer"]) for state in tree["layers"]]
    if here != there:
        raise InvalidArgument(
            f"the state is of {' in '.join(there)} and the environments are {' in '.join(here)}; make and wrap them as "
            "they were"
        )
    for layer, state in zip(layers, tree["layers"], strict=True):
        if state["num_envs"] != layer.num_envs:
            raise InvalidArgument(
                f"the state is of {state['num_envs']} environments and there are {layer.num_envs}; make as many"
            )
        if isinstance(layer, DummyVecEnv) and "envs" in state:
            for env, states in zip(layer.envs, state["envs"], strict=True):
                check_single(env, states)


def _layers(env: Any) -> list[Any]:
    layers = [env]
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        layers.append(env)
    return layers[::-1]


def _take_layer(taker: Taker, layer: Any) -> tuple[State, list[str]]:
    if type(layer).__name__ == _ONLOOKER:
        return {}, []
    if has_protocol(layer):
        own, reason = taker.own(layer.get_state())
        return {"own": own}, [_line(layer, f"has a get_state() that gives {reason}")] if reason else []
    if isinstance(layer, DummyVecEnv):
        pairs = [take_single(taker, env) for env in layer.envs]
        state, reasons = _take_attributes(taker, layer, _OF_A_DUMMY)
        return {"envs": [tree for tree, _ in pairs], **state}, [*_lines(pairs), *reasons]
    if isinstance(layer, ProcessVecEnv):
        pairs = layer.capture_envs()
        state, reasons = _take_face(taker, layer)
        crew = layer.crew
        crew_state = {"seeds": list(crew.seeds), "dropped": [list(item) for item in crew.dropped.items()]}
        return {"envs": [tree for tree, _ in pairs], "crew": crew_state, **state}, [*_lines(pairs), *reasons]
    if isinstance(layer, SubprocVecEnv):
        return _take_subproc(taker, layer)
    if isinstance(layer, VecEnvWrapper):
        return _take_attributes(taker, layer, _OF_A_WRAPPER)
    return {}, [_line(layer, "does not give its state")]


def _give_layer(giver: Giver, layer: Any, state: Mapping[str, Any]) -> None:
    if "own" in state:
        layer.set_state(giver.value(state["own"], None))
        return
    if isinstance(layer, TensorVecEnv):
        if "tensors" in state:
            layer.load_state_dict(state["tensors"])
        layer._start_time = time.time() - state["elapsed"]
    if "envs" in state:
        _give_envs(giver, layer, state)
    if "face" in state:
        giver.attributes(layer, state["face"], _beside_the_face(layer))
    if "attributes" in state:
        skip = _OF_A_DUMMY if isinstance(layer, DummyVecEnv) else _OF_A_WRAPPER
        clock = clock_of(layer) if "elapsed" in state else None
        giver.attributes(layer, state["attributes"], skip | {clock[0]} if clock is not None else skip)
        if clock is not None:
            setattr(layer, clock[0], clock[1]() - state["elapsed"])
    if isinstance(layer, ProcessVecEnv):
        layer.crew.reset_infos = layer.reset_infos


def _give_envs(giver: Giver, layer: Any, state: Mapping[str, Any]) -> None:
    if isinstance(layer, DummyVecEnv):
        for env, states in zip(layer.envs, state["envs"], strict=True):
            give_single(giver, env, states)
    elif isinstance(layer, ProcessVecEnv):
        layer.restore_envs(state["envs"])
        crew = layer.crew
        crew.seeds = list(state["crew"]["seeds"])
        crew.dropped = {int(row): str(how) for row, how in state["crew"]["dropped"]}
    else:
        for index, encoded in enumerate(state["envs"]):
            layer.env_method("set_state", giver.value(encoded, None), indices=[index])


def _take_tensors(taker: Taker, layer: TensorVecEnv, inside: bool) -> tuple[State, list[str]]:
    state, reasons = _take_face(taker, layer)
    state["elapsed"] = time.time() - layer._start_time
    if not inside:
        try:
            state["tensors"] = layer.state_dict()
        except InvalidArgument as reason:
            reasons.append(str(reason))
    return state, reasons


def _take_face(taker: Taker, layer: VecEnv) -> tuple[State, list[str]]:
    found, stuck = taker.attributes(layer, _beside_the_face(layer))
    return {"face": found}, [_line(layer, _keeps(stuck))] if stuck else []


def _beside_the_face(layer: VecEnv) -> frozenset[str]:
    wanted = _OF_TENSORS if isinstance(layer, TensorVecEnv) else _OF_ALL
    return frozenset(name for name in vars(layer) if name not in wanted)


def _take_attributes(taker: Taker, layer: VecEnv, skip: frozenset[str]) -> tuple[State, list[str]]:
    state: State = {}
    if (clock := clock_of(layer)) is not None:
        state["elapsed"], skip = clock[1]() - vars(layer)[clock[0]], skip | {clock[0]}
    state["attributes"], stuck = taker.attributes(layer, skip)
    return state, [_line(layer, _keeps(stuck))] if stuck else []


def _take_subproc(taker: Taker, layer: SubprocVecEnv) -> tuple[State, list[str]]:
    """Its workers call methods and no more, and what a wrapper remembers is not the business of the environment."""
    name = type(layer).__name__
    asked = layer.has_attr("get_state") and layer.has_attr("set_state") and not layer.has_attr("init_qpos")
    if not asked or any(layer.env_is_wrapped(gym.Wrapper)):
        reason = (
            f"{name} cannot ask its workers for the state of environments and wrappers: use ProcessVecEnv, which can"
        )
        return {}, [reason]
    pairs = [taker.own(state) for state in layer.env_method("get_state")]
    reasons = [f"an environment of {name} has a get_state() that gives {reason}" for _, reason in pairs if reason]
    face, more = _take_face(taker, layer)
    return {"envs": [tree for tree, _ in pairs], **face}, [*reasons, *more]


def _lines(pairs: Iterable[tuple[Any, list[str]]]) -> list[str]:
    return [reason for _, reasons in pairs for reason in reasons]


def _keeps(stuck: list[str]) -> str:
    return f"keeps {', '.join(stuck)}, which cannot be copied"


def _line(layer: Any, what: str) -> str:
    return f"{type(layer).__name__} {what}: {_REMEDY}"


def _counted(reasons: Iterable[str]) -> list[str]:
    return [f"{reason} ({count} times)" if count > 1 else reason for reason, count in Counter(reasons).items()]
