"""Signals end a training with a checkpoint, at once when they come twice, and leave the process as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from resumed_runs import SHORT, digest, vec
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import Preempted, SaveCheckpoints, checkpoints_in, resume
from sb3_ppo_plus.checkpoint.signals import SignalWatch

TOTAL = 4 * 2 * SHORT["n_steps"]
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")


class Kill(BaseCallback):
    """Sends this process a signal in the middle of a rollout."""

    def __init__(self, number: int, timestep: int = TOTAL // 2 + 10) -> None:
        super().__init__()
        self.number, self.timestep = number, timestep
        self.steps_after = -1

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.timestep:
            self.steps_after += 1
            if self.steps_after == 0:
                os.kill(os.getpid(), self.number)
        return True


def cartpole() -> PPOPlus:
    return PPOPlus("MlpPolicy", vec("CartPole-v1"), **SHORT)


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [
        (signal.SIGTERM, Preempted, 143),
        (signal.SIGUSR1, Preempted, 138),
        (signal.SIGINT, KeyboardInterrupt, None),
    ],
)
def test_a_signal_ends_the_step_with_an_exact_checkpoint(
    number: int, error: type[BaseException], code: int | None, tmp_path: Path
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGALRM)]
    kill, model = Kill(number), cartpole()
    with pytest.raises(error) as ended:
        model.learn(TOTAL, [kill, SaveCheckpoints(tmp_path, cost=1e-9)])
    assert kill.steps_after == 0
    assert getattr(ended.value, "code", None) == code
    assert [
        signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGALRM)
    ] == before
    assert checkpoints_in(tmp_path)[0][0] == TOTAL // 2
    assert model.num_timesteps == TOTAL // 2
    again = resume(checkpoints_in(tmp_path)[0][1], vec("CartPole-v1"))
    assert digest(again.learn(TOTAL)) == digest(cartpole().learn(TOTAL))


class Slow(BaseCallback):
    """What takes long and asks for no signal: an evaluation, an update."""

    def _on_rollout_end(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    def _on_step(self) -> bool:
        return True


def test_what_takes_long_is_interrupted(tmp_path: Path) -> None:
    saving = SaveCheckpoints(tmp_path)
    assert saving.watch is not None
    saving.watch.patience = 0.2
    before = time.monotonic()
    with pytest.raises(Preempted):
        cartpole().learn(TOTAL, [Slow(), saving])
    assert time.monotonic() - before < 20
    assert checkpoints_in(tmp_path)[0][0] == 0


def test_an_update_that_is_interrupted_leaves_the_parameters_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sb3_ppo_plus import eager

    real, taken = eager.train_minibatch, []

    def slow(run: Any, batch: Any) -> bool:
        result = real(run, batch)
        taken.append(1)
        if len(taken) == 20:  # in the second update
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return result

    monkeypatch.setattr(eager, "train_minibatch", slow)
    saving = SaveCheckpoints(tmp_path)
    assert saving.watch is not None
    saving.watch.patience = 0.2
    with pytest.raises(Preempted):
        cartpole().learn(TOTAL, saving)
    monkeypatch.undo()
    steps, path = checkpoints_in(tmp_path)[0]
    assert steps == 2 * SHORT["n_steps"]
    assert digest(resume(path, vec("CartPole-v1")).learn(TOTAL)) == digest(cartpole().learn(TOTAL))


def test_other_threads_and_ignored_signals_are_left_alone(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            cartpole().learn(TOTAL // 4, SaveCheckpoints(tmp_path))
        except BaseException as error:
            errors.append(error)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors and signal.getsignal(signal.SIGTERM) is before
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        watch = SignalWatch()
        watch.open()
        os.kill(os.getpid(), signal.SIGUSR1)
        watch.check()
        watch.close()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, ignored)


def test_handlers_are_restored_after_an_error(tmp_path: Path) -> None:
    class Fails(BaseCallback):
        def _on_step(self) -> bool:
            raise RuntimeError("somebody's mistake")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="mistake"):
        cartpole().learn(TOTAL, [Fails(), SaveCheckpoints(tmp_path)])
    assert signal.getsignal(signal.SIGTERM) is before


TWICE = """
import os, signal, sys, time
sys.path[:0] = [{tests!r}]
from resumed_runs import SHORT, vec
from stable_baselines3.common.callbacks import BaseCallback
from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import SaveCheckpoints

class Hangs(BaseCallback):
    def _on_step(self):
        print("in a step", flush=True)
        time.sleep(60)
        return True

PPOPlus("MlpPolicy", vec("CartPole-v1"), **SHORT).learn(1000, [Hangs(), SaveCheckpoints(sys.argv[1])])
"""


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    program = TWICE.format(tests=str(Path(__file__).parents[1]))
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in a step\n"
    process.send_signal(signal.SIGTERM)
    before = time.monotonic()
    while process.poll() is None and time.monotonic() - before < 20:
        time.sleep(0.3)
        # Again and again: two signals that come before the first was seen are one.
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=1) == -signal.SIGTERM
    process.stdout.close()
