"""
Keeps the shape of the package: who may import whom, how long things may be, what a library does not do.

The rules read the source as a syntax tree. Each is a function from sources to complaints, run on the package and on
small sources that break it.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sb3_ppo_plus"

# A module may import modules of its own level and of the levels above it in this table. A name stands for the module
# and, if it is a folder, for all that is inside; the longest name that fits decides.
LEVELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "numbers in, numbers out",
        (
            "advantages",
            "atomic",
            "controllers",
            "device.options",
            "device.scan",
            "distributed",
            "distributions",
            "errors",
            "losses",
            "machine",
            "metrics",
            "normalization",
            "profiling",
            "resources",
            "schedule_shapes",
            "schedules",
            "statistics",
            "types",
        ),
    ),
    (
        "one rollout and one update",
        (
            "action_draws",
            "actors",
            "buffers",
            "callback_locals",
            "compiled",
            "device",
            "distributed.callbacks",
            "distributed.normalizers",
            "distributed.passes",
            "distributed.trees",
            "distributed.update_data",
            "eager",
            "envs",
            "features",
            "files",
            "flat_adam",
            "gathering",
            "graphs",
            "hybrid_policy",
            "masking",
            "nonfinite",
            "plain_policy",
            "policies",
            "probe",
            "update",
            "update_data",
        ),
    ),
    ("environments and files for other programs", ("envs.mujoco", "envs.tasks", "envs.unity", "export")),
    (
        "the algorithm",
        (
            "coefficients",
            "compile_choice",
            "device.choice",
            "device.rollout",
            "device.training",
            "distributed.algorithm",
            "distributed.alike",
            "distributed.rollouts",
            "explain",
            "explain_checks",
            "loading",
            "masked_model",
            "nonfinite.guards",
            "optim",
            "ppo_plus",
            "presets",
            "reference",
            "resumable",
            "rollout",
            "rollout_ends",
            "saved_algorithm",
            "update_log",
            "update_start",
            "validation",
        ),
    ),
    (
        "around the algorithm",
        ("benchmark", "callbacks", "checkpoint", "distributed.states", "doctor", "runs", "tuning", "zoo"),
    ),
    ("the command line", ("__main__", "cli")),
)
# Libraries each level may use beside the standard library; a level may use what the levels above it use.
LIBRARIES: tuple[frozenset[str], ...] = (
    frozenset({"numpy", "torch"}),
    frozenset({"gymnasium", "stable_baselines3"}),
    frozenset({"sb3_contrib", "PIL"}),
    frozenset(),
    frozenset({"cloudpickle", "matplotlib", "tensorboard", "yaml"}),
    frozenset({"rich"}),
)
STANDARD_LIBRARY_ONLY = ("atomic", "errors", "resources")
ALGORITHM = "ppo_plus"
CONCRETE_ENVIRONMENTS = ("envs.mujoco", "envs.tasks", "envs.unity")
# Optional dependency: the only places that may import it while being imported themselves.
OPTIONAL = {
    "mujoco": ("envs.mujoco",),
    "mujoco_warp": ("envs.mujoco",),
    "warp": ("envs.mujoco",),
    "mlagents_envs": ("envs.unity",),
    "grpc": ("envs.unity",),
    "google": ("envs.unity",),
    "optuna": ("tuning", "zoo"),
    "scipy": ("tuning",),
    "sqlalchemy": ("tuning",),
    "submitit": ("tuning",),
    "onnx": ("export",),
    "onnxruntime": ("export",),
    "onnxscript": ("export",),
    "rl_zoo3": ("zoo",),
    "psutil": ("machine",),
    "envpool": (),
    "jax": (),
}
MAY_PRINT = ("__main__", "cli")
MAY_READ_ENVIRONMENT = ("__main__", "cli", "doctor")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

Sources = dict[str, str]


@dataclass(frozen=True)
class Import:
    """One imported module: its full name, the line, and whether it waits until a function is called (or never runs)."""

    target: str
    line: int
    deferred: bool


@cache
def package_sources() -> Sources:
    """Read every module of the package, by its name below the package (``""`` for the package itself)."""
    paths = sorted((ROOT / PACKAGE).rglob("*.py"))
    return {_module_name(path.relative_to(ROOT / PACKAGE)): path.read_text(encoding="utf-8") for path in paths}


@cache
def parsed(source: str) -> ast.Module:
    """The tree of a module, which no rule changes."""
    return ast.parse(source)


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, names: tuple[str, ...]) -> bool:
    """Say whether a module is one of these names or inside one of these folders."""
    return any(module == name or module.startswith(name + ".") for name in names)


def level_of(module: str) -> int | None:
    """Give the index of a module's level; None for a module that the table does not know."""
    fitting = [
        (len(name), level) for level, (_, names) in enumerate(LEVELS) for name in names if within(module, (name,))
    ]
    return max(fitting)[1] if fitting else None


def imports(source: str) -> list[Import]:
    """List the imports of a module. ``from a import b`` gives ``a.b``; whether that is a module is decided later."""
    return list(_imports_below(parsed(source), deferred=False))


def _imports_below(node: ast.AST, deferred: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, deferred) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            yield from (Import(f"{base}.{alias.name}", child.lineno, deferred) for alias in child.names)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_type_checking(child)
            yield from _imports_below(child, deferred or inside)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def own_imports(module: str, sources: Sources) -> Iterator[tuple[str, int]]:
    """
    List the modules of this package that a module imports, with the line.

    ``from sb3_ppo_plus import PPOPlus`` means the module that really holds it, not the package.
    """
    for found in imports(sources[module]):
        if found.target == PACKAGE or found.target.startswith(PACKAGE + "."):
            name = found.target[len(PACKAGE) + 1 :]
            while name not in sources and "." in name:
                name = name.rpartition(".")[0]
            yield (name if name in sources else lazy_exports(sources.get("", "")).get(name, "")), found.line


def lazy_exports(source: str) -> dict[str, str]:
    """Read the table of names that the package resolves on first use."""
    for node in parsed(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_EXPORTS":
            return {name: module.removeprefix(PACKAGE + ".") for name, module in ast.literal_eval(node.value).items()}
    return {}


def is_facade(module: str, sources: Sources) -> bool:
    """Say whether a package only names what is below it, and imports that on first use."""
    return "_EXPORTS = {" in sources[module] and any(name.startswith(module + ".") for name in sources)


def reachable(module: str, sources: Sources) -> set[str]:
    """Collect all modules that importing a module brings in, directly or not."""
    seen, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        if current and current not in seen:
            seen.add(current)
            waiting += [name for name, _ in own_imports(current, sources)]
    return seen


# ------------------------------------------------ the rules


def unknown_modules(sources: Sources) -> list[str]:
    remedy = "add it to the level it belongs to in LEVELS, at the top of tests/test_architecture.py"
    return [f"{module}: unknown module; {remedy}" for module in sources if module and level_of(module) is None]


def wrong_direction(sources: Sources) -> list[str]:
    found = []
    for module in filter(None, sources):
        level = level_of(module)
        for name, line in own_imports(module, sources):
            other = level_of(name)
            if is_facade(module, sources) and within(name, (module,)):
                continue
            if None not in (level, other) and other > level:
                found.append(f"{module}:{line}: {LEVELS[level][0]!r} imports {name} of {LEVELS[other][0]!r}")
    return found


def wrong_library(sources: Sources) -> list[str]:
    found = []
    for module in filter(None, sources):
        level = 0 if level_of(module) is None else level_of(module)
        allowed = frozenset() if within(module, STANDARD_LIBRARY_ONLY) else frozenset().union(*LIBRARIES[: level + 1])
        for item in imports(sources[module]):
            library = item.target.partition(".")[0]
            if (
                library not in allowed
                and library not in sys.stdlib_module_names
                and library not in {PACKAGE, *OPTIONAL}
            ):
                found.append(f"{module}:{item.line}: imports {library}; its level may use {sorted(allowed)}")
    return found


def optional_at_import(sources: Sources) -> list[str]:
    found = []
    for module, source in sources.items():
        for item in imports(source):
            library = item.target.partition(".")[0]
            if library in OPTIONAL and not item.deferred and not within(module, OPTIONAL[library]):
                remedy = f"only {' and '.join(OPTIONAL[library])} may, others inside the function that needs it"
                found.append(f"{module}:{item.line}: imports the optional {library} while being imported; {remedy}")
    return found


def relative_imports(sources: Sources) -> list[str]:
    # The other rules read full names; a relative import would pass them unseen.
    return [
        f"{module}:{item.line}: relative import {item.target}"
        for module, source in sources.items()
        for item in imports(source)
        if item.target.startswith(".")
    ]


def command_line_users(sources: Sources) -> list[str]:
    return [
        f"{module}:{line}: imports {name}"
        for module in sources
        if not within(module, ("__main__", "cli"))
        for name, line in own_imports(module, sources)
        if within(name, ("cli",))
    ]


def algorithm_knows_environment(sources: Sources) -> list[str]:
    used = reachable(ALGORITHM, sources) if ALGORITHM in sources else set()
    return [f"{ALGORITHM} brings in {name}" for name in sorted(used) if within(name, CONCRETE_ENVIRONMENTS)]


def environment_knows_algorithm(sources: Sources) -> list[str]:
    environments = [module for module in sources if within(module, ("envs",))]
    return [f"{module} brings in {ALGORITHM}" for module in environments if ALGORITHM in reachable(module, sources)]


def long_files(sources: Sources) -> list[str]:
    lengths = {module: len(source.splitlines()) for module, source in sources.items()}
    return [f"{module}: {n} lines, at most {MAX_FILE_LINES}" for module, n in lengths.items() if n > MAX_FILE_LINES]


def long_functions(sources: Sources) -> list[str]:
    found = []
    for module, source in sources.items():
        for node in ast.walk(parsed(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = code_lines(node, source.splitlines())
                if length > MAX_FUNCTION_LINES:
                    found.append(
                        f"{module}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"
                    )
    return found


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Count the lines of a function that are neither its docstring, nor empty, nor a comment."""
    numbers = set(range(function.lineno, (function.end_lineno or function.lineno) + 1))
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        numbers -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return sum(1 for number in numbers if lines[number - 1].strip() and not lines[number - 1].strip().startswith("#"))


def prints(sources: Sources) -> list[str]:
    return [
        f"{module}:{node.lineno}: print(); a library logs"
        for module, source in sources.items()
        if not within(module, MAY_PRINT)
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def environment_readers(sources: Sources) -> list[str]:
    names = {"os.environ", "os.getenv", "os.putenv", "os.environb"}
    found = []
    for module, source in sources.items():
        if within(module, MAY_READ_ENVIRONMENT):
            continue
        used = [
            (ast.unparse(node), node.lineno) for node in ast.walk(parsed(source)) if isinstance(node, ast.Attribute)
        ]
        used += [(item.target, item.line) for item in imports(source)]
        found += [f"{module}:{line}: {name}; take an argument instead" for name, line in used if name in names]
    return found


RULES: list[Callable[[Sources], list[str]]] = [
    unknown_modules,
    wrong_direction,
    wrong_library,
    optional_at_import,
    relative_imports,
    command_line_users,
    algorithm_knows_environment,
    environment_knows_algorithm,
    long_files,
    long_functions,
    prints,
    environment_readers,
]

LAZY = "_EXPORTS = {'PPOPlus': 'ppo_plus'}"

# One source per rule, or more, that it must complain about (and must complain about exactly once).
VIOLATIONS: list[tuple[Callable[[Sources], list[str]], Sources]] = [
    (unknown_modules, {"novelty": ""}),
    (wrong_direction, {"losses": "from sb3_ppo_plus.buffers import flat", "buffers": ""}),
    (wrong_direction, {"update": "def f():\n    from sb3_ppo_plus import ppo_plus", "ppo_plus": ""}),
    (
        wrong_direction,
        {
            "buffers": "from sb3_ppo_plus import PPOPlus",
            "ppo_plus": "",
            "": LAZY,
        },
    ),
    (wrong_direction, {"envs": "_EXPORTS = {}\nimport sb3_ppo_plus.ppo_plus", "envs.base": "", "ppo_plus": ""}),
    (wrong_direction, {"envs": "import sb3_ppo_plus.envs.unity", "envs.unity": ""}),
    (wrong_library, {"losses": "import stable_baselines3.common"}),
    (wrong_library, {"atomic": "import torch as th"}),
    (wrong_library, {"callbacks": "from rich.table import Table"}),
    (optional_at_import, {"tuning.space": "import mujoco"}),
    (optional_at_import, {"ppo_plus": "try:\n    from onnx import helper\nexcept ImportError:\n    pass"}),
    (relative_imports, {"losses": "from .buffers import flat"}),
    (relative_imports, {"losses": "from . import buffers"}),
    (command_line_users, {"runs.config": "from sb3_ppo_plus.cli import main", "cli": ""}),
    (
        algorithm_knows_environment,
        {"ppo_plus": "import sb3_ppo_plus.rollout", "rollout": "import sb3_ppo_plus.envs.unity", "envs.unity": ""},
    ),
    (environment_knows_algorithm, {"envs.base": "from sb3_ppo_plus.ppo_plus import PPOPlus", "ppo_plus": ""}),
    (long_files, {"losses": "\n" * (MAX_FILE_LINES + 1)}),
    (long_functions, {"losses": "def f(x):\n" + "    x += 1\n" * MAX_FUNCTION_LINES}),
    (prints, {"losses": "def f():\n    print('x')"}),
    (environment_readers, {"losses": "import os\nx = os.environ['HOME']"}),
    (environment_readers, {"losses": "from os import getenv"}),
]

# Sources that look alike and are fine.
ALLOWED: list[tuple[Callable[[Sources], list[str]], Sources]] = [
    (wrong_direction, {"buffers": "from sb3_ppo_plus.losses import masked_mean", "losses": ""}),
    (wrong_direction, {"runs.config": "import sb3_ppo_plus", "": ""}),
    (
        wrong_direction,
        {
            "envs": "_EXPORTS = {}\nif TYPE_CHECKING:\n    from sb3_ppo_plus.envs.unity import x",
            "envs.unity": "",
        },
    ),
    (wrong_library, {"losses": "import math\nimport torch as th"}),
    (optional_at_import, {"ppo_plus": "def f():\n    import onnx"}),
    (optional_at_import, {"envs.mujoco.engine": "import mujoco"}),
    (command_line_users, {"__main__": "from sb3_ppo_plus.cli import main", "cli": ""}),
    (environment_knows_algorithm, {"envs.base": "import sb3_ppo_plus.types", "types": "", "ppo_plus": ""}),
    (long_functions, {"losses": 'def f(x):\n    """\n' + "    text\n" * 80 + '    """\n    # why\n\n    return x'}),
    (prints, {"cli.train": "print('x')"}),
    (environment_readers, {"cli.train": "import os\nx = os.environ['HOME']"}),
]


def _case(case: tuple[Callable[[Sources], list[str]], Sources]) -> str:
    return f"{case[0].__name__}-{'-'.join(filter(None, case[1]))}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Callable[[Sources], list[str]]) -> None:
    assert ALGORITHM in package_sources()
    complaints = rule(package_sources())
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("case", VIOLATIONS, ids=_case)
def test_the_rule_notices(case: tuple[Callable[[Sources], list[str]], Sources]) -> None:
    rule, sources = case
    assert len(rule(sources)) == 1


@pytest.mark.parametrize("case", ALLOWED, ids=_case)
def test_the_rule_lets_pass(case: tuple[Callable[[Sources], list[str]], Sources]) -> None:
    rule, sources = case
    assert rule(sources) == []


def test_every_rule_is_shown_to_notice_something() -> None:
    assert {rule for rule, _ in VIOLATIONS} == set(RULES)


# ------------------------------------------------ the whole package


def test_public_names_are_sorted_and_importable() -> None:
    package = importlib.import_module(PACKAGE)
    # ruff's order: constants, then classes, then the rest.
    assert package.__all__ == sorted(
        package.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    assert all(getattr(package, name) is not None for name in package.__all__)
    exports = lazy_exports(package_sources()[""])
    assert {*exports, "__version__"} == set(package.__all__)
    assert set(exports.values()) <= set(package_sources())
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "gymnasium", "stable_baselines3", "matplotlib")
    code = f"import sys, {PACKAGE}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def folders_outside_the_wheel(package: Path) -> list[str]:
    """List folders with Python files that setuptools' package finder does not see: those without ``__init__.py``."""
    folders = {parent for path in package.rglob("*.py") for parent in path.parents if parent.is_relative_to(package)}
    return sorted(str(folder.relative_to(package)) for folder in folders if not (folder / "__init__.py").is_file())


def test_every_folder_is_a_package_and_so_in_the_wheel() -> None:
    assert folders_outside_the_wheel(ROOT / PACKAGE) == []


def test_a_folder_without_init_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "envs" / "unity").mkdir(parents=True)
    for file in ("__init__.py", "envs/unity/__init__.py"):
        (tmp_path / file).touch()
    assert folders_outside_the_wheel(tmp_path) == ["envs"]
