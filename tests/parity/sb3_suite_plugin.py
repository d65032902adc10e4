"""
Pytest plugin: PPOPlus stands where SB3's own tests import PPO, and every test that builds one is counted.

Loaded by ``run_sb3_suite.py`` with ``-p``, so before any test module is imported.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Generator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.errors import UntrustedFile


def _warned_by_own_name(item: pytest.Item, message: str) -> bool:
    return "You are trying to run PPOPlus on the GPU" in message


def _logged_under_own_name(item: pytest.Item, message: str) -> bool:
    # The message is that of `assert os.path.isdir(tmp_path / "PPO_1")`; any other failure stays one.
    folder = item.funcargs["tmp_path"] if isinstance(item, pytest.Function) else Path()
    return "isdir" in message and "'PPO_1'" in message and (folder / "PPOPlus_1").is_dir()


# The places that ask for the class name itself. Each test must hold up to there, and must find PPOPlus's name there;
# it then counts as an expected failure, never as passed.
NAME_TESTS = {
    "test_run.py::test_ppo_warnings": (
        _warned_by_own_name,
        "asks for the class name: SB3 warns 'You are trying to run PPOPlus on the GPU', the test wants 'PPO'",
    ),
    "test_tensorboard.py::test_tensorboard[ppo]": (
        _logged_under_own_name,
        "asks for the class name: the default log folder is PPOPlus_1, the test wants PPO_1",
    ),
}

_built: int = 0


_safe_load = PPOPlus.load.__func__  # type: ignore[attr-defined]


def _load(kind: type[PPOPlus], path: Any, *args: Any, **kwargs: Any) -> PPOPlus:
    """Some of SB3's tests save functions of their own; those files are opened again with trust, as users would."""
    try:
        return _safe_load(kind, path, *args, **kwargs)  # type: ignore[no-any-return]
    except UntrustedFile:
        if hasattr(path, "seek"):
            path.seek(0)
        return _safe_load(kind, path, *args, trust=True, **kwargs)  # type: ignore[no-any-return]


def substitute() -> None:
    """Put PPOPlus where tests import PPO from, and count its constructions."""
    stable_baselines3.PPO = PPOPlus  # type: ignore[attr-defined,misc,assignment]
    stable_baselines3.ppo.PPO = PPOPlus  # type: ignore[misc,assignment]
    original = PPOPlus.__init__

    @functools.wraps(original)
    def counting(self: PPOPlus, *args: Any, **kwargs: Any) -> None:
        global _built
        # Counted on entry: several tests are about what the constructor refuses.
        _built += 1
        original(self, *args, **kwargs)

    PPOPlus.__init__ = counting  # type: ignore[method-assign]
    PPOPlus.load = classmethod(_load)  # type: ignore[assignment,method-assign]


substitute()


def concerns_ppo(item: pytest.Function) -> bool:
    """
    Say whether a test may build PPO; errs towards yes, and ``--every-test`` reports where it errs towards no.

    :param item: a collected test
    :return: True when its algorithm parameter is PPO, when it has none and names PPO, or when it calls PPO itself
    """
    function = item.function
    source = _source(function)
    if re.search(r"\bPPO(\.load)?\(", source):
        return True
    parameters = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    algorithms = [value for value in parameters if isinstance(value, type) and issubclass(value, BaseAlgorithm)]
    if algorithms:
        return PPOPlus in algorithms
    return any(_holds_ppo(function.__globals__.get(name)) for name in _names(function.__code__))


def _source(function: Any) -> str:
    """Give the source of a test function without its decorators, whose parameter lists name every algorithm."""
    source = inspect.getsource(function)
    return source[re.search(r"^def ", source, re.MULTILINE).start() :]  # type: ignore[union-attr]


def _names(code: CodeType) -> set[str]:
    """Collect the global names that a function and the functions inside it use."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*(_names(constant) for constant in inner))


def _holds_ppo(value: Any) -> bool:
    """Look for PPOPlus in a module-level name: itself, in a container, or in what a helper function uses."""
    if value is PPOPlus:
        return True
    if isinstance(value, dict):
        return any(_holds_ppo(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple, set)):
        return any(_holds_ppo(part) for part in value)
    return False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ppo-report", type=Path, help="JSON file for the counts")
    parser.addoption("--every-test", action="store_true", help="also run what does not look as if it built PPO")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if isinstance(item, pytest.Function) and concerns_ppo(item)]
    others = [item for item in items if item not in set(chosen)]
    for item in chosen:
        item.user_properties.append(("chosen", True))
    if not config.getoption("--every-test"):
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _built
    _built = 0
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    except (pytest.fail.Exception, AssertionError) as error:
        asks_for_own_name, reason = NAME_TESTS.get(item.nodeid, (None, ""))
        if asks_for_own_name is not None and asks_for_own_name(item, str(error)):
            pytest.xfail(reason)
        raise
    finally:
        # Test reports carry these properties from the workers to the process that counts.
        item.user_properties.append(("built", _built))


class Counter:
    """Collects one row per test in the process that reports (the only one, or the one that leads the workers)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = self.tests.setdefault(report.nodeid, {"outcome": "passed", "chosen": False, "built": 0, "reason": ""})
        row.update(dict(report.user_properties))
        if report.outcome != "passed":
            row["outcome"] = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            row["reason"] = _reason(report)

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.tests, indent=1))


def _reason(report: pytest.TestReport) -> str:
    """Say in one line why a test did not pass."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return str(report.longreprtext).strip().splitlines()[-1] if report.longreprtext.strip() else ""


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--ppo-report")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Counter(path))
