"""engine="warp" where MuJoCo-Warp is missing or old, and engine="cpu" with what belongs to the other."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mujoco.batch")

from sb3_ppo_plus.envs import MujocoVecEnv
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.native import on_the_processor, task_kwargs

OURS = ("bindings", "graph", "physics", "randomization", "tally", "packing", "sizes", "vec_env")


@pytest.fixture
def not_imported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delitem(sys.modules, f"sb3_ppo_plus.envs.mujoco.warp_{name}", raising=False)


def test_without_it_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, not_imported_yet: None) -> None:
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    with pytest.raises(InvalidArgument, match=r'engine="warp" needs .*pip install sb3_ppo_plus\[warp\]'):
        MujocoVecEnv("Hopper-v5", engine="warp", device="cuda")


def test_an_old_one_is_refused(monkeypatch: pytest.MonkeyPatch, not_imported_yet: None) -> None:
    monkeypatch.setitem(sys.modules, "mujoco_warp", SimpleNamespace(__version__="3.17.0"))
    monkeypatch.setitem(sys.modules, "warp", SimpleNamespace())
    with pytest.raises(InvalidArgument, match=r"found: 3\.17\.0"):
        MujocoVecEnv("Hopper-v5", engine="warp")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"engine": "gpu"}, "engine='gpu'; there is 'cpu' and 'warp'"),
        ({"device": "cuda"}, "device='cuda' goes with engine='warp'"),
        ({"engine_options": {"nconmax": 8}}, "goes with engine='warp'"),
    ],
)
def test_a_wrong_engine_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        MujocoVecEnv("Hopper-v5", **options)


def test_a_class_of_ones_own_stays_on_the_processor() -> None:
    class Mine(MujocoVecEnv):
        pass

    assert type(Mine("Hopper-v5")) is Mine
    with pytest.raises(InvalidArgument, match=r"derive yours from .*WarpVecEnv"):
        Mine("Hopper-v5", engine="warp")


def test_a_run_evaluates_in_mujoco_itself() -> None:
    given = {"engine": "warp", "device": "cuda", "engine_options": {"njmax": 99}, "ctrl_cost_weight": 0.01}
    assert on_the_processor(given) == {"ctrl_cost_weight": 0.01}
    assert task_kwargs(RunConfig("Hopper-v5", env_kwargs=given)) == {"ctrl_cost_weight": 0.01}
