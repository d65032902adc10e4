"""A state that is put into other environments: both go on alike, to the last bit, whatever the others did before."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import env_stacks
import pytest

from sb3_ppo_plus.envs.state import capture_env

STEPS = 200
CLASSICS = [
    *("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"),
    *("FrozenLake-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1"),
]
ROBOTS = [
    *("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5", "InvertedDoublePendulum-v5"),
    *("InvertedPendulum-v5", "Pusher-v5", "Reacher-v5", "Swimmer-v5", "Walker2d-v5"),
]
IN_PROCESSES = [name for name in env_stacks.STACKS if name.startswith("processes")]
HERE = [name for name in env_stacks.STACKS if name not in IN_PROCESSES]
ELSEWHERE = ["own robot, objects and pictures", "gymnasium wrappers", "Humanoid-v5", "native robots"]


def check(name: str, folder: Path) -> None:
    first = env_stacks.begun(name)
    assert env_stacks.save(first, folder / "state") == []
    fresh, used = env_stacks.make(name), env_stacks.begun(name, seed=8, steps=11)
    try:
        env_stacks.load(fresh, folder / "state")
        env_stacks.load(used, folder / "state")
        seen = env_stacks.wander(first, STEPS)
        assert env_stacks.difference(seen, env_stacks.wander(fresh, STEPS)) == ""
        assert env_stacks.difference(seen, env_stacks.wander(used, STEPS)) == ""
        assert env_stacks.episode_ends(seen) >= 2
    finally:
        for env in (first, fresh, used):
            env.close()


@pytest.mark.parametrize("name", [*CLASSICS, *ROBOTS, *HERE])
def test_what_follows_is_the_same(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_PROCESSES)
def test_what_follows_in_processes_is_the_same(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.slow
def test_what_follows_in_a_process_is_the_same(tmp_path: Path) -> None:
    check("processes of errands", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ELSEWHERE, "processes"])
def test_what_follows_in_another_program_is_the_same(name: str, tmp_path: Path) -> None:
    env = env_stacks.begun(name)
    assert env_stacks.save(env, tmp_path / "state") == []
    command = [sys.executable, env_stacks.__file__, name, str(tmp_path / "state"), str(STEPS)]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)
    seen = env_stacks.wander(env, STEPS)
    env.close()
    assert env_stacks.difference(seen, pickle.loads((tmp_path / "state.seen").read_bytes())) == ""
    assert env_stacks.episode_ends(seen) >= 2


@pytest.mark.parametrize("name", ["Hopper-v5", "own robot, objects and pictures", "native robots"])
def test_taking_a_state_changes_nothing(name: str) -> None:
    looked_at, left_alone = env_stacks.begun(name), env_stacks.begun(name)
    seen = []
    for _ in range(60):
        capture_env(looked_at)
        seen += env_stacks.wander(looked_at, 1)
    assert env_stacks.difference(seen, env_stacks.wander(left_alone, 60)) == ""


@pytest.mark.parametrize("name", ["Hopper-v5", "own robot, objects and pictures", "sb3 wrappers", "native robots"])
def test_a_state_is_a_copy(name: str, tmp_path: Path) -> None:
    env = env_stacks.begun(name)
    state = capture_env(env)
    before = pickle.dumps(state.tree)
    seen = env_stacks.wander(env, 60)
    assert pickle.dumps(state.tree) == before
    for _ in range(2):  # putting it back does not use it up
        env_stacks.restore_env(env, state.tree)
        assert env_stacks.difference(seen, env_stacks.wander(env, 60)) == ""


@pytest.mark.parametrize("name", [*HERE, "Ant-v5", "Taxi-v4", "Blackjack-v1"])
def test_states_are_plain_data(name: str) -> None:
    env = env_stacks.begun(name)
    assert env_stacks.strangers(capture_env(env).tree) == set()
