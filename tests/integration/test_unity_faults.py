"""Games that crash, hang, quit or never start, and trainers that leave in every way: nothing is lost, nothing stays."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unity_games import EchoAccount, make_build, make_game, player_log

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.buffers import RowsMixin
from sb3_ppo_plus.envs.unity.communicator import port_is_free
from sb3_ppo_plus.envs.unity.errors import UnityError
from sb3_ppo_plus.errors import InvalidArgument

TESTS = Path(__file__).resolve().parents[1]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie whose parent has not looked yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any, seconds: float) -> bool:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def pids(env: Any) -> list[int]:
    return [game._process.pid for game in env.workers.games]


def ports(env: Any) -> list[int]:
    return [game._communicator.port for game in env.workers.games]


# ------------------------------------------------ the start


@pytest.mark.parametrize(
    "options, words, timeout",
    [
        (
            {"crash_in": "handshake"},
            r"ended with exit code 1; its last output:\n.*ball is missing.*while it was to start",
            60.0,
        ),
        ({"crash_in": "reset"}, r"ended with exit code 1.*while it was to reset", 60.0),
        ({"hang_in": "handshake"}, r"did not start within 2 seconds \(timeout\).*Behavior Type.*Default", 2.0),
        ({"hang_in": "reset"}, r"did not reset within 6 seconds", 6.0),
        ({"quit_after": 3}, r"quit", 60.0),
        ({"communication_version": "0.15.0"}, r"speaks communication version 0.15.0.*this is 1.5.0", 60.0),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_game_that_does_not_start_is_a_clear_error_in_time(
    options: dict[str, Any], words: str, timeout: float, tmp_path: Path
) -> None:
    before = time.monotonic()
    with pytest.raises(UnityError) as caught:
        make_game(tmp_path, "echo", options, timeout=timeout, max_restarts=0)
    assert time.monotonic() - before < 20
    assert re.search(words, str(caught.value), re.DOTALL), caught.value
    assert not subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True).stdout


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"behavior": "Nobody"}, r"no agent of behavior 'Nobody' asked .* within 5 seconds .*seen: Goalie.*Striker"),
        ({}, r"several behaviors, Goalie\?team=1, Striker\?team=0; say which"),
        ({"behavior": "Striker", "n_workers": 0}, "n_workers=0"),
        ({"behavior": "Striker", "group_reward": "none"}, "group_reward='none'; there are add, ignore, separate"),
        ({"behavior": "Striker", "images": "int8"}, "images='int8'"),
        ({"behavior": "Striker", "time_scale": 0.5}, r"time_scale=0.5 has to be between 1 .* and 100"),
        ({"behavior": "Striker", "engine": {"hight": 84}}, "engine has no setting 'hight'; there are width"),
        ({"behavior": "Striker", "others": 3}, "others: 3 cannot play"),
        ({"behavior": "Striker", "environment_parameters": {"g": "high"}}, "parameter 'g' is 'high'; give a number"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises((UnityError, InvalidArgument), match=words):
        make_game(tmp_path, "two", **{"timeout": 5.0, **arguments})


def test_a_path_without_a_game_is_told(tmp_path: Path) -> None:
    from sb3_ppo_plus.envs import UnityVecEnv

    with pytest.raises(UnityError, match=r"there is no game at .*nothing; tried .*nothing.x86_64"):
        UnityVecEnv(tmp_path / "nothing")
    build = make_build(tmp_path, "echo")
    build.chmod(0o644)
    with pytest.raises(UnityError, match="chmod -R 755"):
        UnityVecEnv(tmp_path / "game")


def test_a_full_port_is_told_and_free_ones_are_found(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(UnityError, match=rf"port {taken} is taken by another process.*base_port"):
            make_game(tmp_path, "echo", base_port=taken)
        env = make_game(tmp_path, "echo", n_workers=2)  # base_port=None
        assert taken not in ports(env)
        env.close()
    assert all(port_is_free(port) for port in ports(env))


def test_two_trainers_do_not_share_a_port(tmp_path: Path) -> None:
    first = make_game(tmp_path, "echo")
    with pytest.raises(UnityError, match="is taken"):
        make_game(tmp_path, "echo", base_port=ports(first)[0])
    first.reset()  # the first one is left alone
    first.close()


# ------------------------------------------------ during the training


def play(env: Any, steps: int, account: EchoAccount) -> list[dict[str, Any]]:
    """Random steps; gives what finished rows were told."""
    rng = np.random.default_rng(0)
    obs, ended = env.reset(), []
    for _ in range(steps):
        actions = rng.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32)
        after, _, dones, infos = env.step(actions)
        ended += [dict(info, row=row) for row, info in enumerate(infos) if dones[row]]
        lost = np.array([info["lost_row"] for info in infos])
        account.note(obs, actions, np.zeros(env.num_envs), dones & ~lost, infos)
        for row in np.flatnonzero(lost):
            account.expected.pop(row, None)
        obs = after
    return ended


@pytest.mark.parametrize("how", ["crash_after", "hang_after", "quit_after"])
def test_a_lost_game_is_started_again_and_its_episodes_end_without_a_bootstrap(how: str, tmp_path: Path) -> None:
    options = {how: 40, "only_first": tmp_path / "was", "actions": "continuous", "agents": 3}
    # the marker lets one of the two games fail, once
    env = make_game(tmp_path, "echo", options, n_workers=2, timeout=6.0 if how == "hang_after" else 60.0)
    account = EchoAccount(2, 0)
    ended = play(env, 80, account)
    lost = [info for info in ended if info["lost_row"]]
    assert len(lost) == 3 and len({info["row"] // 3 for info in lost}) == 1
    assert all(info["TimeLimit.truncated"] and "terminal_observation" not in info for info in lost)
    assert all("episode" not in info for info in lost) and account.n_episodes > 20
    assert account.mistakes == []
    log = env.take_log()
    assert log["unity/restarts"] == 1 and log["unity/lost_episodes"] == 3
    env.close()


@pytest.mark.parametrize("phase", ["reset", "step"])
def test_a_killed_game_is_started_again(phase: str, tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"actions": "continuous"}, n_workers=2)
    env.reset()
    doomed = pids(env)[1]
    if phase == "step":
        env.step(np.zeros((env.num_envs, 2), np.float32))
    os.kill(doomed, signal.SIGKILL)
    before = time.monotonic()
    if phase == "step":
        _, _, dones, infos = env.step(np.zeros((env.num_envs, 2), np.float32))
        assert [info["lost_row"] for info in infos] == dones.tolist() == [False] * 4 + [True] * 4
    else:
        env.reset()
    assert time.monotonic() - before < 20.0
    assert doomed not in pids(env) and env.workers.n_restarts == [0, 1]
    env.step(np.zeros((env.num_envs, 2), np.float32))
    env.close()


@pytest.mark.parametrize("how", ["killed", "hang_in"])
def test_a_game_that_does_not_close_is_closed(how: str, tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"hang_in": "close"} if how == "hang_in" else {})
    env.reset()
    (pid,) = pids(env)
    if how == "killed":
        os.kill(pid, signal.SIGKILL)
    before = time.monotonic()
    env.close()
    assert time.monotonic() - before < 20.0
    assert not alive(pid) and port_is_free(ports(env)[0])
    env.close()


def test_a_game_that_is_lost_too_often_ends_the_training(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"crash_after": 40, "actions": "continuous"}, restart_rate=(2, 60.0))
    with pytest.raises(UnityError, match=r"worker 0 was restarted 2 times within 60 seconds \(restart_rate"):
        play(env, 500, EchoAccount(2, 0))
    env.close()
    env = make_game(tmp_path, "echo", {"crash_after": 40, "actions": "continuous"}, max_restarts=0)
    with pytest.raises(UnityError, match=r"restarted 0 times \(max_restarts\)"):
        play(env, 500, EchoAccount(2, 0))
    env.close()


def test_the_learner_leaves_lost_decisions_out(tmp_path: Path) -> None:
    options = {
        "crash_after": 45,
        "only_first": tmp_path / "was",
        "actions": "continuous",
        "periods": "1,2",
        "agents": 4,
    }
    env = make_game(tmp_path, "echo", options)
    model = PPOPlus("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, device="cpu", seed=0)
    lost_at = []

    def watch(shown: dict[str, Any], _: Any) -> bool:
        lost_at.extend((shown["n_steps"], row) for row, info in enumerate(shown["infos"]) if info["lost_row"])
        return True

    model.learn(64 * 4, callback=watch)
    buffer = model.rollout_buffer
    assert isinstance(buffer, RowsMixin) and len(lost_at) == 4
    for step, row in lost_at:
        # the decision under way was the last one that was made in or before that step
        idle = buffer._idle[: step + 1, row]
        assert not buffer.valid[np.flatnonzero(~idle)[-1], row]
    assert model.logger.name_to_value.get("unity/restarts") == 1 or env.workers.n_restarts == [1]
    env.close()


# ------------------------------------------------ how the trainer leaves

TRAINER = """
import os, signal, sys, time
sys.path[:0] = [{tests!r}]
from pathlib import Path
from unity_games import make_game
import numpy as np
env = make_game(Path({folder!r}), "echo", {options!r}, n_workers=2)
env.reset()
print(*[game._process.pid for game in env.workers.games], *[game._communicator.port for game in env.workers.games],
      flush=True)
{rest}
"""
STEPS = "while True: env.step(np.array([env.action_space.sample()] * env.num_envs))"


@pytest.mark.parametrize(
    "rest, kill, options",
    [
        ("pass", None, {}),
        pytest.param("raise ValueError('no')", None, {}, marks=pytest.mark.slow),
        pytest.param("sys.exit(3)", None, {}, marks=pytest.mark.slow),
        pytest.param("os._exit(4)", None, {}, marks=pytest.mark.slow),
        pytest.param(STEPS, signal.SIGINT, {}, marks=pytest.mark.slow),
        pytest.param(STEPS, signal.SIGTERM, {}, marks=pytest.mark.slow),
        (STEPS, signal.SIGKILL, {}),
        pytest.param(STEPS, signal.SIGTERM, {"hang_after": 150}, marks=pytest.mark.slow),
        (STEPS, signal.SIGKILL, {"hang_after": 150}),
    ],
)
def test_nothing_stays_behind_however_the_trainer_leaves(
    rest: str, kill: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    code = TRAINER.format(tests=str(TESTS), folder=str(tmp_path), options=options, rest=rest)
    trainer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=TESTS.parent
    )
    assert trainer.stdout is not None
    numbers = [int(word) for word in trainer.stdout.readline().split()]
    games, used = numbers[:2], numbers[2:]
    assert len(used) == 2
    if kill is not None:
        time.sleep(0.5)
        trainer.send_signal(kill)
    trainer.wait(20)
    trainer.stdout.close()
    assert wait_for(lambda: not any(alive(pid) for pid in games), 20.0)
    assert all(port_is_free(port) for port in used)


def test_the_stand_in_was_told_goodbye(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo")
    env.close()
    assert {"left": "asked to"} in player_log(tmp_path)


def test_an_interrupted_step_does_not_spoil_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_game(tmp_path, "echo", {"actions": "continuous", "periods": "1,2"}, n_workers=2)
    for _ in range(3):
        env.reset()
        env.step(np.zeros((env.num_envs, 2), np.float32))
        with monkeypatch.context() as patch:
            patch.setattr(env.workers._mailbox, "receive", raising(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                env.step(np.zeros((env.num_envs, 2), np.float32))
    account = EchoAccount(2, 0)
    play(env, 60, account)
    assert account.mistakes == [] and account.n_episodes > 10
    env.close()


def raising(error: type[BaseException]) -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


def test_closed_games_say_so_at_once(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo")
    env.close()
    for use in (env.reset, lambda: env.step(np.zeros((4, 4), np.float32))):
        before = time.monotonic()
        with pytest.raises(UnityError, match="the games were closed; make a new environment"):
            use()
        assert time.monotonic() - before < 1.0
