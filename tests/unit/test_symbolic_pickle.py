"""Pickles read as data: what honest ones give, and that nothing of a hostile one is run."""

from __future__ import annotations

import collections
import pickle
import pickletools
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from make_hostile import call, techniques, whole
from stable_baselines3.common import utils
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_ppo_plus.controllers import KLBand
from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.files.known_sb3 import KNOWN_IN_MODELS, whole_numbers
from sb3_ppo_plus.files.pickles import BadPickle, Call, Name, Pairs, read_pickle
from sb3_ppo_plus.files.rebuild import MAX_DEPTH, Known, Rebuilder, Untrusted, load_known
from sb3_ppo_plus.schedule_shapes import LinearSchedule

SPACES = [
    spaces.Box(-1, 1, (2, 3), seed=3),
    spaces.Box(0, 255, (3, 4, 4), np.uint8),
    spaces.Discrete(4, start=2, seed=1),
    spaces.MultiDiscrete([2, 3], seed=4),
    spaces.MultiBinary((2, 3)),
    spaces.Dict(a=spaces.Box(0, 1, (2,)), b=spaces.Tuple((spaces.Discrete(2),)), seed=5),
    HybridSpace(spaces.Box(-1, 1, (2,)), [2, 3], seed=3),
]


def reread(value: Any, protocol: int = 5) -> Any:
    return load_known(cloudpickle.dumps(value, protocol), KNOWN_IN_MODELS)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_spaces_come_back_with_their_generators(space: spaces.Space[Any], protocol: int) -> None:
    found, expected = reread(space, protocol), pickle.loads(pickle.dumps(space))
    assert found == expected
    assert repr(found) == repr(expected)
    if expected._np_random is not None:
        assert [repr(found.sample()) for _ in range(3)] == [repr(expected.sample()) for _ in range(3)]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(1, 0, 2),
        np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
        np.array([True, False]),
        np.zeros((0, 3)),
        np.array(7, np.uint8),
    ],
    ids=str,
)
def test_arrays_come_back(array: np.ndarray, protocol: int) -> None:
    found = reread(array, protocol)
    assert np.array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        collections.OrderedDict(a=[1, 2], b=(3.5, None, b"x", "ü")),
        collections.deque([{"r": 1.0, "l": 3}], maxlen=4),
        {"net_arch": {"pi": [64], "vf": []}, "activation_fn": nn.ReLU, "optimizer_class": th.optim.AdamW},
        ActorCriticPolicy,
        [2**100, -(2**100), True, float("inf")],
        {1, 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_and_named_classes_come_back(value: Any) -> None:
    found = reread(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_generators_go_on(bits: Any) -> None:
    generator = np.random.Generator(bits(np.random.SeedSequence(3, spawn_key=(1,))))
    generator.random(5)
    found, expected = reread(generator), pickle.loads(pickle.dumps(generator))
    assert np.array_equal(found.random(5), expected.random(5))
    assert found.spawn(1)[0].random() == expected.spawn(1)[0].random()


@pytest.mark.parametrize("module", [nn.Linear(3, 2), nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(), nn.Flatten())])
def test_modules_come_back(module: nn.Module) -> None:
    found = reread(module)
    x = th.rand(4, 3) if isinstance(module, nn.Linear) else th.rand(4, 1, 5, 5)
    assert th.equal(found(x), module(x))
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in module.parameters()]


def test_schedules_come_back() -> None:
    ours = reread(LinearSchedule(1e-3, 0.0, warmup_fraction=0.1))
    assert ours == LinearSchedule(1e-3, 0.0, warmup_fraction=0.1)
    assert reread(utils.FloatSchedule(0.2))(0.5) == 0.2
    assert reread(utils.LinearSchedule(1.0, 0.5, 0.5))(0.9) == utils.LinearSchedule(1.0, 0.5, 0.5)(0.9)
    assert reread(KLBand(0.01)).to_config() == KLBand(0.01).to_config()


def test_functions_that_old_versions_pickled_are_known_by_their_names() -> None:
    with pytest.warns(UserWarning, match="deprecated"):
        functions = [utils.constant_fn(0.2), utils.get_linear_fn(1.0, 0.25, 0.5), utils.get_schedule_fn(0.3)]
    for function in functions:
        found = reread(function)
        assert [found(moment) for moment in (1.0, 0.7, 0.1)] == [function(moment) for moment in (1.0, 0.7, 0.1)]
    with pytest.raises(Untrusted, match="test_functions_that_old"):
        reread(lambda progress: 0.1)


def test_nothing_of_a_hostile_pickle_is_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    found = techniques(canary)
    for name, content in found.items():
        with pytest.raises((Untrusted, BadPickle)):
            load_known(content, KNOWN_IN_MODELS)
            pytest.fail(f"{name} was opened")
        assert not canary.exists(), name
    # the same files do run when they are unpickled, so the canary would have been seen
    pickle.loads(found["os.mkdir"])
    assert canary.is_dir()


def test_names_are_known_whole_or_not_at_all() -> None:
    for module, name in (
        ("torch.nn.modules.activation", "ReLU.__init__"),
        ("torch.nn.modules", "activation.ReLU"),
        ("torch.nn", "ReLU"),
        ("", "torch.nn.modules.activation.ReLU"),
    ):
        with pytest.raises(Untrusted):
            Rebuilder(KNOWN_IN_MODELS).value(Name(module, name))


def test_a_class_of_the_table_is_not_called() -> None:
    """It may be named as a value; only what has a maker is made."""
    with pytest.raises(Untrusted, match="RolloutBuffer"):
        load_known(whole(call("stable_baselines3.common.buffers", "RolloutBuffer", 10**9)), KNOWN_IN_MODELS)


def test_methods_are_not_replaced() -> None:
    linear = nn.Linear(2, 2)
    linear.__dict__["forward"] = nn.ReLU
    with pytest.raises(BadPickle, match="method 'forward'"):
        reread(linear)
    hooked = nn.Linear(2, 2)
    hooked._forward_hooks[0] = nn.ReLU  # type: ignore[assignment]
    with pytest.raises(BadPickle, match="hooks"):
        reread(hooked)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x04K\x01K\x02.",
        b"\x80\x04(K\x01.",
        b"\x80\x04h\x05.",
        b"\x80\x04K\x01K\x02a.",
        b"\x80\x04}(K\x01u.",
        b"\x80\x04K\x01}b.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x04]\x94h\x00a.",
        b"\x80\x04X\x04\x00\x00\x00\xff\xff\xff\xff.",
        b"\x80\x04}K\x01\x85K\x01s.",
        b"\x80\x04\x8b\xff\xff\xff\x7f.",
        b"I" + b"9" * 10_000 + b"\n.",
        pickle.dumps([1, 2]) + b"x",
    ],
    ids=range(17),
)
def test_what_is_no_pickle_is_damaged(content: bytes) -> None:
    with pytest.raises(BadPickle):
        load_known(content, KNOWN_IN_MODELS)


def test_sizes_are_bounded() -> None:
    deep = b"\x80\x04" + b"]" * (MAX_DEPTH + 5) + b"a" * (MAX_DEPTH + 4) + b"."
    with pytest.raises(BadPickle, match="nested deeper"):
        load_known(deep, Known())
    doubled: Any = []
    for _ in range(40):
        doubled = [doubled, doubled]
    with pytest.raises(BadPickle, match="elements"):
        load_known(pickle.dumps(doubled, 4), Known())
    with pytest.raises(BadPickle, match="bits"):
        load_known(pickle.dumps(1 << 100_000, 4), Known())


def test_what_is_referred_to_twice_is_made_once() -> None:
    shared = [1.0]
    found = load_known(pickle.dumps([shared, shared], 4), Known())
    assert found == [[1.0], [1.0]]
    assert found[0] is found[1]


def test_the_reader_alone_makes_only_plain_values() -> None:
    """The first half knows no classes at all: a space is a call of a name."""
    node, end = read_pickle(pickle.dumps(spaces.Discrete(3), 5))
    assert isinstance(node, Call)
    assert node.function == Name("gymnasium.spaces.discrete", "Discrete")
    assert isinstance(node.state[0], Pairs)
    assert end == len(pickle.dumps(spaces.Discrete(3), 5))


def test_every_instruction_of_honest_files_is_followed() -> None:
    value = {"a": {1}, "b": (1, 2, 3, 4), "c": bytearray(b"x" * 70_000), "d": [-1, 300, 70_000, 2**70]}
    content = pickle.dumps(value, 5)
    names = {opcode.name for opcode, _, _ in pickletools.genops(content)}
    assert {"BYTEARRAY8", "ADDITEMS", "BININT", "BININT2", "LONG1", "FRAME"} <= names
    assert load_known(content, Known()) == value


def test_numbers_that_decide_sizes_are_found() -> None:
    assert whole_numbers({"net_arch": [64, {"pi": [32]}], "ortho_init": True, "log_std_init": -2.0}) == [64, 32]
    assert whole_numbers(spaces.Dict(a=spaces.Discrete(9), b=spaces.MultiDiscrete([2, 7]))) == [9, 2, 7]
    assert whole_numbers(spaces.Box(0, 1, (100,))) == []
