"""Every return, length, ending and last observation of agents with rhythms of their own, against an account apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import slow_but
from unity_games import EchoAccount, make_game

KINDS = {"hybrid": (2, 2), "continuous": (2, 0), "branch": (0, 1), "branches": (0, 2)}


def play(env: Any, account: EchoAccount, n_episodes: int, perfect: bool = False, seed: int = 0) -> list[Any]:
    """Play until so many episodes were accounted for, at random or by saying what is heard."""
    rng = np.random.default_rng(seed)
    obs, ended = env.reset(), []
    while account.n_episodes < n_episodes:
        actions = np.array([sample(env.action_space, rng) for _ in range(env.num_envs)])
        if perfect:
            actions = obs[:, 3:]
        after, rewards, dones, infos = env.step(actions)
        account.note(obs, actions, rewards, dones, infos)
        ended += [info for info, done in zip(infos, dones, strict=True) if done]
        obs = after
    return ended


def sample(space: Any, rng: np.random.Generator) -> np.ndarray:
    space.seed(int(rng.integers(2**31)))
    return space.sample()


@pytest.mark.parametrize("kind", slow_but(["hybrid", "branch"], KINDS))
def test_random_play_of_mixed_rhythms_gives_the_right_returns(kind: str, tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"periods": "1,2,3,5", "agents": 6, "actions": kind})
    account = EchoAccount(*KINDS[kind])
    play(env, account, 250)
    env.close()
    assert account.mistakes == []


def test_a_perfect_echo_returns_the_length_of_its_episode(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"periods": "1,3,4", "agents": 5})
    account = EchoAccount(2, 2)
    ended = play(env, account, 200, perfect=True)
    env.close()
    assert account.mistakes == []
    # the first episodes began before the reset, with an action of zeros that nobody chose
    later = [info for info in ended if info["terminal_observation"][1] > 1]
    lengths = {int(info["terminal_observation"][0]): info["episode"]["r"] for info in later}
    assert {number: pytest.approx(5 + number % 7, abs=1e-4) for number in range(5)} == lengths


def test_agents_that_come_and_go_have_the_right_returns(tmp_path: Path) -> None:
    env = make_game(tmp_path, "respawn", {"periods": "1,2,5", "agents": 5})
    account = EchoAccount(1, 1)
    play(env, account, 250)
    assert env.num_envs == 5
    env.close()
    assert account.mistakes == []


@pytest.mark.parametrize("trained, form", [("Striker", (3, 0)), pytest.param("Goalie", (0, 1), marks=pytest.mark.slow)])
def test_one_of_two_behaviors_has_the_right_returns(trained: str, form: tuple[int, int], tmp_path: Path) -> None:
    env = make_game(tmp_path, "two", {"agents": 3}, behavior=trained, others="random", n_workers=2)
    account = EchoAccount(*form)
    play(env, account, 250)
    assert env.num_envs == 6
    env.close()
    assert account.mistakes == []


def test_resets_in_between_leave_nothing_behind(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"periods": "1,2,3", "agents": 4, "actions": "continuous"})
    for seed in range(5):
        account = EchoAccount(2, 0)
        play(env, account, 20, seed=seed)
        assert account.mistakes == []
    env.close()
