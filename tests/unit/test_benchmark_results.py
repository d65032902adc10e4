"""What a benchmark's folder keeps, and what is read back from it after everything that can happen to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from benchmark_folders import fill, result, rising, suite

from sb3_ppo_plus.benchmark.plan import PlannedRun, plan_runs
from sb3_ppo_plus.benchmark.results import FAILED, BenchmarkFolder, RunPlace, latest, results_of
from sb3_ppo_plus.benchmark.runner import Runner, Running, fraction_done, seconds_left
from sb3_ppo_plus.benchmark.training import BINS, Recorder, _Episodes, _Evaluation, make_curve, write_curve
from sb3_ppo_plus.errors import InvalidArgument


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder, runs = BenchmarkFolder(tmp_path), plan_runs(suite())
    written = [result(run, float(index), state=FAILED, reason="ä\nb") for index, run in enumerate(runs[:3])]
    for entry in written:
        folder.append(entry)
    assert folder.read() == written
    assert len(folder.results.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("torn", [b'{"variant": "pl', b"\x00\x00\x00", b"null", b'{"a": 1}', b"\xff"])
def test_a_torn_line_costs_itself_only(tmp_path: Path, torn: bytes) -> None:
    folder, runs = BenchmarkFolder(tmp_path), plan_runs(suite())
    folder.append(result(runs[0], 1.0))
    with open(folder.results, "ab") as file:
        file.write(torn)
    folder.append(result(runs[1], 2.0))
    assert [entry.training_return for entry in folder.read()] == [1.0, 2.0]


def test_the_last_line_of_a_run_counts() -> None:
    run = plan_runs(suite())[0]
    first, second = result(run, None, state=FAILED), result(run, 3.0)
    assert latest([first, second]) == {run.key: second}


def test_runs_with_other_settings_are_kept_apart() -> None:
    now, before = suite(), suite(protocol={"last_episodes": 7})
    lines = [result(plan_runs(before)[0], 9.0), result(plan_runs(now)[0], 1.0)]
    found, others = results_of(now, lines)
    assert [entry.training_return for _, entry in found] == [1.0] and others == 1
    found, others = results_of(before, lines)
    assert [entry.training_return for _, entry in found] == [9.0] and others == 1
    assert (
        BenchmarkFolder(Path("x")).run(plan_runs(now)[0]).path
        != BenchmarkFolder(Path("x")).run(plan_runs(before)[0]).path
    )


def test_seeds_that_the_suite_does_not_have_count_too() -> None:
    run = plan_runs(suite(), [77])[0]
    found, others = results_of(suite(), [result(run, 1.0)])
    assert [planned.seed for planned, _ in found] == [77] and others == 0


def test_a_folder_without_a_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"is no folder of a benchmark: it has no suite\.yml"):
        BenchmarkFolder(tmp_path).open_suite()


@pytest.mark.skipif(os.name == "nt", reason="opens no folders")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = BenchmarkFolder(tmp_path)
    assert not folder.is_claimed()
    with folder.claimed():
        code = "import sys; from pathlib import Path; from sb3_ppo_plus.benchmark.results import BenchmarkFolder as B; "
        code += f"sys.exit(B(Path({str(tmp_path)!r})).is_claimed())"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
    assert not folder.is_claimed()


def test_a_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    place, curve = RunPlace(tmp_path), rising(5.0)
    assert place.read_curve() is None
    write_curve(curve, place.curve)
    read = place.read_curve()
    assert read is not None
    for name, value in vars(curve).items():
        np.testing.assert_array_equal(getattr(read, name), value)
    place.curve.write_bytes(b"PK nonsense")
    assert place.read_curve() is None


def recorder(steps: list[int], times: list[float], returns: list[float]) -> Recorder:
    made = Recorder(None, lambda standing: None)  # type: ignore[arg-type]
    made.steps, made.times, made.returns = steps, times, returns
    return made


class Evaluated(_Evaluation):
    def __init__(self) -> None:
        self.evaluations_timesteps, self.times, self.evaluations_results = (
            [0, 1000],
            [0.0, 4.0],
            [[1.0, 2.0], [3.0, 4.0]],
        )


def test_a_curve_in_bins() -> None:
    # bins of 10 steps: episodes at 10 and 5 end in the first, 11 in the second, 1000 in the last
    curve = make_curve(recorder([5, 10, 11, 1000], [0.1, 0.2, 0.3, 3.9], [1.0, 3.0, 7.0, 9.0]), Evaluated(), 1000, 4.0)
    assert len(curve.steps) == BINS and curve.steps[0] == 10 and curve.steps[-1] == 1000
    assert curve.returns[0] == 2.0 and curve.returns[1] == 7.0 and curve.returns[-1] == 9.0
    assert np.isnan(curve.returns[2:-1]).all()
    assert curve.episodes.tolist() == [2, 1] + [0] * (BINS - 3) + [1]
    assert curve.seconds[0] == pytest.approx(0.2)
    assert curve.eval_returns.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_curve_without_an_episode() -> None:
    curve = make_curve(recorder([], [], []), Evaluated(), 1000, 4.0)
    assert np.isnan(curve.returns).all() and curve.seconds[-1] == 4.0 and curve.seconds[49] == pytest.approx(2.0)


def test_the_buffer_of_episodes_tells_of_each_and_stays_a_buffer() -> None:
    told: list[float] = []
    episodes = _Episodes([], 2, told.append)
    episodes.extend([{"r": 1}])
    episodes.extend([{"r": 2}, {"r": 3}])
    assert told == [1.0, 2.0, 3.0] and list(episodes) == [{"r": 2}, {"r": 3}]


def test_time_left_comes_from_runs_of_the_same_kind(tmp_path: Path) -> None:
    made = suite()
    folder = fill(tmp_path, {("plus", "CartPole-v1"): [1.0], ("plus", "Pendulum-v1"): [1.0]}, made)
    planned = plan_runs(made, [0, 1], variants=["plus"])
    runner = Runner(folder, planned, jobs=1, results=latest(folder.read()), waiting=planned[2:])
    assert fraction_done(runner) == 0.5
    # two runs of 100 steps ahead, at the 5 seconds of those that are done
    assert seconds_left(runner) == pytest.approx(10.0)
    runner.jobs = 2
    assert seconds_left(runner) == pytest.approx(5.0)
    runner.results = {}
    assert seconds_left(runner) is None and fraction_done(runner) == 0.0


class Standing(Running):
    """A run that is said to stand somewhere."""

    def __init__(self, planned: PlannedRun, steps: int, started: float) -> None:
        self.planned, self.started, self.steps = planned, started, steps

    @property
    def standing(self) -> dict[str, int]:
        return {"steps": self.steps, "total": 100}


def test_the_first_steps_of_a_run_are_no_speed(tmp_path: Path) -> None:
    folder = fill(tmp_path, {("plus", "CartPole-v1"): [1.0]})
    planned = plan_runs(suite(), [0, 1], ["CartPole-v1"], ["plus"])
    runner = Runner(folder, planned, results=latest(folder.read()))
    runner.running = [Standing(planned[1], 1, time.time() - 9)]
    assert seconds_left(runner) == pytest.approx(5.0), "that of the run that is done"
    runner.running = [Standing(planned[1], 90, time.time() - 9)]
    assert seconds_left(runner) == pytest.approx(1.0, rel=0.1)


def test_no_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="jobs is 0; give at least 1"):
        Runner(BenchmarkFolder(tmp_path), [], jobs=0)
