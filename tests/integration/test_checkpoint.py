"""A training that stops and goes on is the training that did not stop; and its file survives what happens to it."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import slow_but
from resumed_runs import RUNS, SAVED_AFTER, SHORT, UPDATES, Remembers, digest, train, vec
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import CannotSave, DamagedFile, SaveCheckpoints, checkpoints_in, resume, save_checkpoint
from sb3_ppo_plus.checkpoint.generators import generator_states, set_generator_states
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.files.tree import dump_tree

TOTAL = 4 * 2 * SHORT["n_steps"]
IN_PROCESSES = ("extras",)


def cartpole(**options: Any) -> PPOPlus:
    return PPOPlus("MlpPolicy", vec("CartPole-v1"), **{**SHORT, **options})


def draws() -> bytes:
    return b"".join(dump_tree(generator_states()))


def disturb() -> None:
    """Whatever else a process does with its generators."""
    random.seed(99), np.random.seed(98), th.manual_seed(97)


class At(BaseCallback):
    """Does something once, when the model has made so many steps, in on_rollout_start() or on_step()."""

    def __init__(self, timestep: int, what: Callable[[PPOPlus], Any], in_step: bool = False) -> None:
        super().__init__()
        self.timestep, self.what, self.in_step = timestep, what, in_step
        self.came: list[Any] = []

    def _look(self) -> None:
        if self.num_timesteps == self.timestep and not self.came:
            self.came.append(self.what(self.model))  # type: ignore[arg-type]

    def _on_rollout_start(self) -> None:
        if not self.in_step:
            self._look()

    def _on_step(self) -> bool:
        if self.in_step:
            self._look()
        return True


# ------------------------------------------------ the same run


def check_same(whole: dict[str, str], rest: dict[str, str]) -> None:
    assert list(whole) == [str(number) for number in range(UPDATES + 1)] and len(set(whole.values())) == UPDATES + 1
    assert list(rest) == [str(number) for number in range(SAVED_AFTER, UPDATES + 1)]
    assert rest == {number: whole[number] for number in rest}


@pytest.mark.parametrize("name", slow_but([name for name in RUNS if name not in ("workers", "compiled")], RUNS))
def test_going_on_is_exact(name: str, tmp_path: Path) -> None:
    if name == "compiled":
        pytest.importorskip("torch._inductor")
    whole = train(name, "whole", tmp_path)
    assert train(name, "first", tmp_path) == {number: whole[number] for number in ("0", "1", "2")}
    disturb()
    check_same(whole, train(name, "rest", tmp_path))


def in_process(name: str, part: str, folder: Path) -> dict[str, str]:
    program = Path(__file__).parents[1] / "resumed_runs.py"
    words = [sys.executable, str(program), name, part, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", slow_but(IN_PROCESSES, RUNS))
def test_going_on_in_another_process_is_exact(name: str, tmp_path: Path) -> None:
    in_process(name, "first", tmp_path)
    check_same(train(name, "whole", tmp_path), in_process(name, "rest", tmp_path))


def test_going_on_after_a_call_of_learn_is_exact(tmp_path: Path) -> None:
    model = cartpole().learn(TOTAL)
    assert save_checkpoint(model, tmp_path / "between") == []
    model.learn(TOTAL, reset_num_timesteps=False)
    disturb()
    again = resume(tmp_path / "between.zip", vec("CartPole-v1"))
    assert again.num_timesteps == TOTAL
    assert digest(again.learn(TOTAL, reset_num_timesteps=False)) == digest(model)


def test_opening_touches_no_generator_of_the_process(tmp_path: Path) -> None:
    save_checkpoint(cartpole(use_sde=False).learn(TOTAL), tmp_path / "a")
    disturb()
    before = draws()
    resume(tmp_path / "a.zip", vec("CartPole-v1"))
    assert draws() == before


def saved_at(timestep: int, path: Path, in_step: bool = False, **options: Any) -> tuple[PPOPlus, At]:
    saver = At(timestep, lambda model: save_checkpoint(model, path), in_step)
    return cartpole(**options).learn(TOTAL, saver), saver


def test_the_steps_of_a_continued_call_count_as_the_caller_says(tmp_path: Path) -> None:
    saved_at(TOTAL // 2, tmp_path / "half.zip")

    def end(total: int, **options: Any) -> int:
        return resume(tmp_path / "half.zip", vec("CartPole-v1")).learn(total, **options).num_timesteps

    assert end(TOTAL) == TOTAL
    assert end(2 * TOTAL) == 2 * TOTAL
    assert end(TOTAL // 4) == TOTAL // 2  # nothing is left of it
    assert end(TOTAL, reset_num_timesteps=False) == TOTAL // 2 + TOTAL


def test_a_second_call_of_learn_is_one_of_its_own(tmp_path: Path) -> None:
    saved_at(TOTAL // 2, tmp_path / "half.zip")
    model = resume(tmp_path / "half.zip", vec("CartPole-v1")).learn(TOTAL)
    assert model.learn(TOTAL).num_timesteps == TOTAL


def test_noise_drawn_before_on_rollout_start_is_drawn_again(tmp_path: Path) -> None:
    def pendulum() -> PPOPlus:
        return PPOPlus("MlpPolicy", vec("Pendulum-v1"), use_sde=True, **SHORT)

    saver = At(TOTAL // 2, lambda model: save_checkpoint(model, tmp_path / "a"))
    model = pendulum().learn(TOTAL, saver)
    assert saver.came == [[]]
    assert digest(resume(tmp_path / "a.zip", vec("Pendulum-v1")).learn(TOTAL)) == digest(model)


def test_the_middle_of_a_rollout_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, saver = saved_at(TOTAL // 2 + 6, tmp_path / "a.zip", in_step=True)
    assert len(saver.came[0]) == 1 and "middle of a rollout" in saver.came[0][0]
    assert "a.zip: going on from it will not be exact: it was saved in the middle" in caplog.text
    caplog.clear()
    model = resume(tmp_path / "a.zip", vec("CartPole-v1"))
    assert "not exact: it was saved in the middle" in caplog.text
    assert model.num_timesteps == TOTAL // 2 + 6
    assert model.learn(TOTAL).num_timesteps >= TOTAL


# ------------------------------------------------ callbacks and logs


def test_callbacks_go_on(tmp_path: Path) -> None:
    def made() -> list[BaseCallback]:
        stop = StopTrainingOnNoModelImprovement(10)
        evaluation = EvalCallback(
            vec("CartPole-v1", 1), callback_after_eval=stop, eval_freq=20, log_path=str(tmp_path), n_eval_episodes=2
        )
        return [Remembers(), evaluation, EveryNTimesteps(30, At(-1, lambda model: None))]

    def state(callbacks: list[BaseCallback]) -> list[Any]:
        remembers, evaluation, every = callbacks
        found = [remembers.seen, remembers.n_calls, every.last_time_trigger, evaluation.best_mean_reward]  # type: ignore[attr-defined]
        stop = evaluation.callback  # type: ignore[attr-defined]
        return [*found, evaluation.evaluations_results, stop.no_improvement_evals, stop.n_calls]  # type: ignore[attr-defined]

    saver = At(TOTAL // 2, lambda model: save_checkpoint(model, tmp_path / "a"))
    whole = made()
    cartpole().learn(TOTAL, [*whole, saver])
    rows = np.load(tmp_path / "evaluations.npz")["results"]
    rest = made()
    resume(tmp_path / "a.zip", vec("CartPole-v1")).learn(TOTAL, rest)
    assert state(rest) == state(whole)
    np.testing.assert_array_equal(np.load(tmp_path / "evaluations.npz")["results"], rows)


def test_callbacks_that_are_not_given_again_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cartpole().learn(
        TOTAL, [Remembers(), Remembers(), At(TOTAL // 2, lambda model: save_checkpoint(model, tmp_path / "a"))]
    )
    resume(tmp_path / "a.zip", vec("CartPole-v1")).learn(TOTAL, At(0, lambda model: None))
    assert "callbacks that learn() was not given: 2 x Remembers" in caplog.text


def test_the_tensorboard_log_goes_on_in_its_folder(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(folder: Path) -> list[Any]:
        log = EventAccumulator(str(folder)).Reload()
        return [
            (tag, event.step, event.value)
            for tag in log.Tags()["scalars"]
            if "time" not in tag
            for event in log.Scalars(tag)
        ]

    saved_at(TOTAL // 2, tmp_path / "a.zip", tensorboard_log=str(tmp_path / "tb"))
    whole = scalars(tmp_path / "tb" / "PPOPlus_1")
    (tmp_path / "tb" / "PPOPlus_2").mkdir()  # another run began meanwhile
    resume(tmp_path / "a.zip", vec("CartPole-v1")).learn(TOTAL)
    assert scalars(tmp_path / "tb" / "PPOPlus_1") == whole
    assert not list((tmp_path / "tb" / "PPOPlus_2").glob("*0"))


# ------------------------------------------------ the file


def test_sb3_opens_it(tmp_path: Path) -> None:
    model = cartpole().learn(TOTAL)
    save_checkpoint(model, tmp_path / "a")
    observation = np.ones((3, 4), np.float32)
    for kind in (PPO, PPOPlus):
        opened = kind.load(tmp_path / "a.zip")
        np.testing.assert_array_equal(*(m.predict(observation, deterministic=True)[0] for m in (opened, model)))


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The same zip with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    target = path.with_name("changed.zip")
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def change_manifest(members: dict[str, bytes], **values: Any) -> None:
    manifest = {**json.loads(members["ppo_plus/manifest.json"]), **values}
    members["ppo_plus/manifest.json"] = json.dumps(manifest).encode()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "a.zip"
    saved_at(TOTAL // 2, path)
    return path


@pytest.mark.parametrize(
    ("change", "member"),
    [
        (lambda members: members.pop("ppo_plus/state.bin"), "ppo_plus/state.bin"),
        (lambda members: members.update({"ppo_plus/state.json": b"{}"}), "ppo_plus/state.json"),
        (lambda members: members.update({"policy.pth": members["policy.pth"][:-1]}), "policy.pth"),
        (lambda members: members.update({"more.pth": b"1"}), "more.pth"),
        (lambda members: members.update({"ppo_plus/manifest.json": b"[]"}), "ppo_plus/manifest.json"),
        (lambda members: members.pop("ppo_plus/manifest.json"), "ppo_plus/manifest.json"),
        (lambda members: change_manifest(members, digests={}), "ppo_plus/manifest.json"),
    ],
)
def test_a_changed_member_is_named(saved: Path, change: Callable[[dict[str, bytes]], None], member: str) -> None:
    with pytest.raises(DamagedFile) as found:
        resume(rewritten(saved, change), vec("CartPole-v1"))
    assert found.value.member == member and str(found.value.path) in str(found.value)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_file_that_was_cut_is_named(saved: Path, tmp_path: Path, keep: int) -> None:
    (tmp_path / "cut.zip").write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(DamagedFile, match=r"cut\.zip"):
        resume(tmp_path / "cut.zip", vec("CartPole-v1"))


def test_other_files_are_refused_with_a_reason(saved: Path, tmp_path: Path) -> None:
    cartpole().save(tmp_path / "model.zip")
    with pytest.raises(InvalidArgument, match="without the state of its training"):
        resume(tmp_path / "model.zip", vec("CartPole-v1"))
    newer = rewritten(saved, lambda members: change_manifest(members, format=7, versions={"sb3_ppo_plus": "9.1"}))
    with pytest.raises(InvalidArgument, match=r"format 7, written by sb3_ppo_plus 9\.1.*up to 1"):
        resume(newer, vec("CartPole-v1"))
    with pytest.raises(InvalidArgument, match=r"missing\.zip cannot be read: No such file"):
        resume(tmp_path / "missing.zip", vec("CartPole-v1"))


@pytest.mark.parametrize(
    "other", [lambda: vec("CartPole-v1", 3), lambda: VecNormalize(vec("CartPole-v1")), lambda: vec("Acrobot-v1")]
)
def test_other_environments_are_refused(saved: Path, other: Callable[[], Any]) -> None:
    with pytest.raises((InvalidArgument, ValueError)) as refused:
        resume(saved, other())
    assert str(refused.value)


def test_threads_and_versions_that_differ_are_told(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    changed = rewritten(saved, lambda members: change_manifest(members, versions={"numpy": "1.0"}))
    before = th.get_num_threads()
    th.set_num_threads(before + 1)
    try:
        resume(changed, vec("CartPole-v1"))
    finally:
        th.set_num_threads(before)
    assert f"torch.set_num_threads({before})" in caplog.text
    assert f"numpy {np.__version__} instead of 1.0" in caplog.text


# ------------------------------------------------ what cannot be written


def test_what_cannot_be_saved_leaves_the_file_before(tmp_path: Path) -> None:
    model = cartpole()
    save_checkpoint(model, tmp_path / "a")
    before = (tmp_path / "a.zip").read_bytes()
    model.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(CannotSave, match=r"a\.zip cannot be written, .*pickle.*lock"):
        save_checkpoint(model, tmp_path / "a")
    assert (tmp_path / "a.zip").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.zip"]


def full_disk(monkeypatch: pytest.MonkeyPatch, calls: range) -> None:
    """Syncs of files fail: the place where a full disk is noticed at the latest."""
    real, count = os.fsync, iter(range(10**6))

    def fsync(descriptor: int) -> None:
        if next(count) in calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, range(1))
    with pytest.raises(CannotSave, match=r"a\.zip cannot be written: No space left on device"):
        save_checkpoint(cartpole(), tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_training_goes_on_when_the_disk_is_full_and_saves_again_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full_disk(monkeypatch, range(2, 4))  # after the two syncs of a file: its own, and its folder's
    cartpole().learn(TOTAL, SaveCheckpoints(tmp_path, cost=0.0, keep=9))
    steps = [number for number, _ in checkpoints_in(tmp_path)]
    assert steps[0] == TOTAL and steps[-1] == 0 and len(steps) == 3
    assert [record.getMessage().count("training goes on") for record in caplog.records] == [1]


def test_training_ends_when_it_shall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, range(2, 3))
    with pytest.raises(CannotSave, match="No space left"):
        cartpole().learn(TOTAL, SaveCheckpoints(tmp_path, cost=0.0, on_error="raise"))
    assert [number for number, _ in checkpoints_in(tmp_path)] == [0]


def test_a_folder_without_permission_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cartpole().learn(TOTAL, SaveCheckpoints(tmp_path / "file" / "folder"))
    assert "checkpoint_0.zip cannot be written: Not a directory" in caplog.text


# ------------------------------------------------ SaveCheckpoints


def test_a_training_that_was_finished_stays_what_it_was(tmp_path: Path) -> None:
    model = cartpole().learn(TOTAL, SaveCheckpoints(tmp_path))
    whole = digest(model)
    disturb()
    again = resume(checkpoints_in(tmp_path)[0][1], vec("CartPole-v1")).learn(TOTAL)
    assert digest(again) == whole
    generators = generator_states()
    more = digest(model.learn(TOTAL, reset_num_timesteps=False))
    set_generator_states(generators)
    assert digest(again.learn(TOTAL, reset_num_timesteps=False)) == more


def test_the_newest_stay_and_strays_of_killed_writers_go(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint_7-abcdefgh.zip").write_text("half of a")
    cartpole().learn(TOTAL, SaveCheckpoints(tmp_path, keep=2, cost=0.0))
    assert sorted(os.listdir(tmp_path)) == [f"checkpoint_{TOTAL - 2 * SHORT['n_steps']}.zip", f"checkpoint_{TOTAL}.zip"]


@pytest.mark.parametrize("signals", [True, False])
def test_each_of_its_files_is_exact(tmp_path: Path, signals: bool) -> None:
    model = cartpole()
    model.learn(TOTAL, SaveCheckpoints(tmp_path, keep=9, cost=0.0, signals=signals))
    found = checkpoints_in(tmp_path)
    assert len(found) == 5
    for _, path in found:
        assert digest(resume(path, vec("CartPole-v1")).learn(TOTAL, SaveCheckpoints(tmp_path / "x"))) == digest(model)


def test_a_callback_that_ends_the_training_in_a_rollout_leaves_an_exact_file(tmp_path: Path) -> None:
    class Ends(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < TOTAL // 2 + 10

    cartpole().learn(TOTAL, [Ends(), SaveCheckpoints(tmp_path)])
    model = resume(checkpoints_in(tmp_path)[0][1], vec("CartPole-v1"))
    assert model.num_timesteps == TOTAL // 2
    assert digest(model.learn(TOTAL)) == digest(cartpole().learn(TOTAL))


@pytest.mark.parametrize(
    ("options", "words"), [({"keep": 0}, "keep=0"), ({"cost": 2.0}, "cost=2.0"), ({"on_error": "stop"}, "'stop'")]
)
def test_values_that_cannot_work_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        SaveCheckpoints("folder", **options)


def test_it_needs_ppo_plus(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"works in PPOPlus\.learn"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16).learn(16, SaveCheckpoints(tmp_path))


def test_what_is_inexact_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Odd(type(vec("CartPole-v1").envs[0].unwrapped)):  # type: ignore[misc,attr-defined]
        """Holds what nobody can copy."""

        def __init__(self) -> None:
            super().__init__()
            self.world = io.BytesIO()

    from stable_baselines3.common.vec_env import DummyVecEnv

    model = PPOPlus("MlpPolicy", DummyVecEnv([Odd] * 2), **SHORT)
    with caplog.at_level(logging.WARNING):
        model.learn(TOTAL, SaveCheckpoints(tmp_path, cost=0.0))
    told = [record.getMessage() for record in caplog.records if "will not be exact" in record.getMessage()]
    assert len(told) == 1 and "Odd" in told[0]
