"""The two loops that ``benchmarks/tensor_ceiling.py`` compares do the same work: their rollouts are the same."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.contract import TensorVecEnvContract

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def ceiling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("tensor_ceiling")


@pytest.mark.parametrize("case", ["free", "free, ends", "CartPole-v1", "Pendulum-v1"])
def test_both_loops_fill_their_buffers_alike(case: str, ceiling: Any) -> None:
    """Some thousand rows; with the ends of episodes, and the value of what cut-off ones would still have brought."""
    plus, sb3 = (ceiling.Loop(model, 50) for model in ceiling.CASES[case][1](40, 50))
    for loop in (plus, sb3):
        # Both draw actions from torch's generator.
        th.manual_seed(1)
        loop.seconds(2)
    ours, theirs = plus.model.rollout_buffer, sb3.model.rollout_buffer
    names = ["observations", "actions", "values", "log_probs", "rewards", "episode_starts", "advantages", "returns"]
    for name in names:
        # A difference in the last bit of an action moves the states of what follows a little.
        assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-3, atol=2e-4), name
    starts = ours.episode_starts.sum()
    assert starts > 20 if case == "CartPole-v1" else starts < 20
    assert plus.model.num_timesteps == sb3.model.num_timesteps == 2 * 40 * 50
    assert len(plus.model.ep_info_buffer) == len(sb3.model.ep_info_buffer)


def test_cut_off_episodes_are_there_where_the_title_says_so(ceiling: Any) -> None:
    rows = ceiling.draw_rows(4096, 0.001)
    assert 30 < rows.truncated.sum() < 110
    assert np.array_equal((rows.obs != rows.final_obs).any(-1), rows.truncated)


@pytest.mark.slow
def test_a_quick_run_writes_its_table(ceiling: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ceiling.main(["--quick", "--output", str(tmp_path / "table.md"), "--note", "quick"])
    text = (tmp_path / "table.md").read_text()
    assert text.count("\n| ") == len(ceiling.CASES) + 1 and text.rstrip().endswith("quick")
    assert "times SB3" in capsys.readouterr().out


class TestFreeTensorEnv(TensorVecEnvContract):
    """The free environment is a proper one, as far as something can be that draws nothing and forgets actions."""

    running_statistics = True  # rewards are drawn beforehand, so they do not sum up to the return that it tells
    independent_envs = False
    test_another_seed_gives_another_trajectory = None
    test_a_seed_is_used_once = None
    test_episode_statistics_begin_anew_with_each_episode = None
    test_infos_sum_up_finished_episodes = None
    test_a_state_of_another_number_of_environments_is_refused = None

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        sys.path.insert(0, str(BENCHMARKS))
        try:
            ceiling = importlib.import_module("tensor_ceiling")
        finally:
            sys.path.remove(str(BENCHMARKS))
        env = ceiling.FreeTensorEnv(ceiling.draw_rows(n_envs, 0.2))
        env.seed(seed)
        return env
