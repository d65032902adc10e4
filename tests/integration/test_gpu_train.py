"""``benchmarks/gpu_train.py`` is tried where there is no GPU: every way trains on every kind of environment."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_ppo_plus.device.buffer import DeviceBuffer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_train")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_a_quick_run_writes_its_table_and_says_what_it_left_out(speed: Any, tmp_path: Path) -> None:
    cases = ["--cases", "free", "cartpole", "pendulum", "--ways", "plus", "nographs", "host", "sb3", "rsl_rl"]
    speed.main(["--device", "cpu", "--quick", *cases, "--output", str(tmp_path / "table.md"), "--note", "quick"])
    text = (tmp_path / "table.md").read_text()
    assert text.count("| 8 | PPOPlus |") == text.count("| 8 | SB3's PPO |") == 3
    assert text.count("rollout on the host |") == 6 and "graphs: acting False" in text
    assert "CartPole-v1 in torch, rsl_rl: rsl_rl has no discrete actions" in text
    assert "which measures nothing" in text and text.rstrip().endswith("quick")


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_ways_are_what_their_names_say(speed: Any) -> None:
    args = speed.arguments(["--device", "cpu", "--quick"])
    for way, on_device in (("plus", True), ("bfloat16", True), ("host", False)):
        runner = speed.Runner("free", way, 8, args)
        assert isinstance(runner.way.model.rollout_buffer, DeviceBuffer) is on_device
        assert runner.way.model.num_timesteps == 2 * 8 * args.steps
    assert speed.device_name("cpu").startswith("on the processor")
    assert th.is_tensor(runner.env.steps[0].obs)
