"""sb3_ppo_plus.machine: processors, torch's threads and memory, also where a system does not tell."""

from __future__ import annotations

import mmap
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_ppo_plus import machine
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.machine import (
    WORK_FOR_THREADS,
    peak_memory,
    processors,
    quota_of,
    resident_memory,
    torch_threads,
    update_threads,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Iterator[None]:
    before = th.get_num_threads()
    yield
    th.set_num_threads(before)


def files(monkeypatch: pytest.MonkeyPatch, contents: dict[str, str]) -> None:
    """Let Linux's files of this process say something else; those that are not given are not there."""

    def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
        if str(self) not in contents:
            raise FileNotFoundError(self)
        return contents[str(self)]

    monkeypatch.setattr(machine, "Path", type("FakePath", (type(Path()),), {"read_text": read_text}))


# ------------------------------------------------ processors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000", 2),  # one and a half
        ("100001 100000", 2),
        ("50000 100000", 1),
        ("0 100000", 1),
        ("max 100000\n", None),
        ("", None),
        ("100000", None),
        ("100000 0", None),
    ],
)
def test_a_limit_of_processor_time_is_rounded_up(text: str, expected: int | None) -> None:
    assert quota_of(text) == expected


def test_the_smaller_of_affinity_and_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for limit, expected in (("250000 100000", 3), ("900000 100000", 4), ("max 100000", 4)):
        files(monkeypatch, {"/sys/fs/cgroup/cpu.max": limit})
        assert processors() == expected
    files(monkeypatch, {})
    assert processors() == 4


def test_without_affinity_all_processors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, {})
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processors() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1


# ------------------------------------------------ memory


@linux
def test_memory_that_is_written_to_is_held() -> None:
    before = resident_memory()
    # New pages from the system: an array could take those that an earlier test has given back to the allocator.
    with mmap.mmap(-1, 64 * 2**20) as pages:
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1
        held, peak = resident_memory(), peak_memory()
    assert before is not None and held is not None and peak is not None
    assert 60 < held - before < 100
    assert peak >= held - 4  # they are counted apart


def test_resident_memory_is_counted_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 4096, raising=False)
    files(monkeypatch, {"/proc/self/statm": "999999 2560 405 5 0 123 0\n"})
    assert resident_memory() == 10.0  # 2560 pages of 4 KiB


def test_without_proc_psutil_tells_the_memory_or_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, {})
    monkeypatch.setitem(sys.modules, "psutil", None)  # importing it fails
    assert resident_memory() is None
    psutil = types.ModuleType("psutil")
    process = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(rss=3 * 2**20))
    psutil.Process = lambda: process  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    assert resident_memory() == 3.0


@pytest.mark.parametrize(("platform", "expected"), [("linux", 2.0), ("darwin", 2 / 1024)])
def test_the_peak_has_the_unit_of_its_system(platform: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, {})
    resource = types.ModuleType("resource")
    resource.RUSAGE_SELF = 0  # type: ignore[attr-defined]
    resource.getrusage = lambda who: types.SimpleNamespace(ru_maxrss=2048)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "resource", resource)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory() == expected
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory() is None


def test_the_peak_of_this_program_wins_over_that_of_the_one_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, {"/proc/self/status": "Name:\tpython\nVmHWM:\t    4096 kB\nVmRSS:\t  2048 kB\n"})
    assert peak_memory() == 4.0


# ------------------------------------------------ threads


def test_torch_has_its_threads_back_afterwards() -> None:
    th.set_num_threads(2)
    with torch_threads(1):
        assert th.get_num_threads() == 1
        with torch_threads(3):
            assert th.get_num_threads() == 3
        assert th.get_num_threads() == 1
    assert th.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), torch_threads(1):
        raise ZeroDivisionError
    assert th.get_num_threads() == 2


def test_torch_is_not_asked_for_the_threads_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    th.set_num_threads(2)
    asked: list[int] = []
    monkeypatch.setattr(th, "set_num_threads", asked.append)
    with torch_threads(2):
        pass
    assert asked == []


def test_less_than_one_thread_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="n is 0; give at least 1 thread"), torch_threads(0):
        pass


def test_a_small_step_stays_on_one_thread_and_none_takes_more_than_the_user_gave() -> None:
    th.set_num_threads(2)
    rows = int(WORK_FOR_THREADS) // 1000
    assert update_threads(rows - 1, 1000, has_image=False) == 1
    assert update_threads(rows, 1000, has_image=False) == 2
    assert update_threads(1, 1000, has_image=True) == 2
    th.set_num_threads(1)
    assert update_threads(rows, 1000, has_image=False) == 1
    assert update_threads(rows, 1000, has_image=True) == 1
