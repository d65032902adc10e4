"""The command line without training: help, errors, exit codes, renderers, progress lines."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sb3_ppo_plus import __version__, cli
from sb3_ppo_plus.callbacks import Progress
from sb3_ppo_plus.cli import rendering
from sb3_ppo_plus.cli.progress import LinePrinter, describe
from sb3_ppo_plus.errors import InvalidArgument

LOADED = ("torch", "gymnasium", "stable_baselines3", "mujoco")
HEAVY = ("torch", "gymnasium", "stable_baselines3", "matplotlib", "numpy", "rich", "yaml")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["eval", "--help"], []])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from sb3_ppo_plus.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert done.stderr == ""
    assert __version__ in done.stdout or "usage: ppo-plus" in done.stdout


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "sb3_ppo_plus", "trian"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown command 'trian'; did you mean train?\n"


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_explains_all_its_arguments(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    module = __import__(cli.COMMANDS[command][0], fromlist=["add_arguments"])
    parser = cli.Parser()
    module.add_arguments(parser)
    for one in (parser, *subparsers(parser)):
        assert all(action.help for action in one._actions if not isinstance(action, argparse._SubParsersAction))
    assert f"usage: ppo-plus {command}" in capsys.readouterr().out


def subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Parsers of a command's own commands."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [inner for action in found for inner in action.choices.values()]


ERRORS: dict[str, tuple[list[str], str]] = {
    "unknown argument": (["train", "--evn", "X"], "unknown argument '--evn'; did you mean --env?"),
    "missing argument": (["eval"], "the following arguments are required: RUN_OR_ZIP"),
    "no environment": (["train"], "name the environment with --env"),
    "unknown environment": (["train", "--env", "CartPol-v1"], "did you mean CartPole-v1"),
    "unknown hyperparameter": (["train", "--env", "CartPole-v1", "--set", "gama=1"], "did you mean gamma"),
    "negative timesteps": (["train", "--env", "CartPole-v1", "-n", "-5"], "n_timesteps is -5;"),
    "timesteps in words": (["train", "--env", "CartPole-v1", "-n", "many"], "n_timesteps is 'many';"),
    "missing file": (["train", "--config", "none.yml"], "cannot read none.yml: No such file"),
    "missing device": (["train", "--env", "CartPole-v1", "--device", "cuda:97"], "'cuda:97' is not there"),
    "bad value": (["train", "--env", "CartPole-v1", "--set", "gamma=7"], "gamma"),
    "bad activation": (
        ["train", "--env", "CartPole-v1", "--set", "policy_kwargs.activation_fn=rellu"],
        "did you mean relu",
    ),
    "bad policy argument": (["train", "--env", "CartPole-v1", "--set", "policy_kwargs.net_arc=[8]"], "net_arc"),
    "unknown policy": (["train", "--env", "CartPole-v1", "--set", "policy=MlpPolice"], "MlpPolice"),
    "unknown preset": (["train", "--env", "CartPole-v1", "--preset", "magic"], "magic"),
    "bad normalizer": (["train", "--env", "CartPole-v1", "--set", "normalize={clip: 3}"], "clip"),
    "no such run": (["eval", "runs/none"], "there is no runs/none"),
    "bad video": (
        ["eval", ".", "--video", "video.webm"],
        "video 'video.webm' ends in '.webm'; give a name ending in .gif",
    ),
    "native wrapper": (
        [
            "train",
            "--env",
            "HalfCheetah-v5",
            "--vec-env",
            "native",
            "--set",
            "env_wrapper=gymnasium.wrappers.ClipAction",
        ],
        "use a vec_env_wrapper instead, or give vec_env dummy",
    ),
    "no task": (["train", "--env", "CartPole-v1", "--vec-env", "native"], "give vec_env dummy or subproc"),
    "missing module": (["train", "--env", "no_such_robot:Balance"], "module 'no_such_robot' cannot be imported"),
    "window and video": (["eval", ".", "--render", "--video", "v.gif"], "--video: not allowed with argument --render"),
    "no episodes": (["eval", ".", "--episodes", "0"], "--episodes is 0"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_input_is_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUJOCO_GL", "egl")  # nothing is drawn here, so nothing is probed
    words, message = ERRORS[case]
    assert cli.main(words) == cli.EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_shown_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(args: Any) -> int:
        raise RuntimeError("the\nengine fell out")

    monkeypatch.setattr("sb3_ppo_plus.cli.train.run", broken)
    assert cli.main(["train"]) == cli.EXIT_FAILED
    assert capsys.readouterr().err == "error: RuntimeError: the engine fell out (--debug shows where)\n"
    assert caplog.records == []
    assert cli.main(["train", "--debug"]) == cli.EXIT_FAILED
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_an_interruption_before_training_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_ppo_plus.cli.train.run", interrupted)
    assert cli.main(["train"]) == cli.EXIT_INTERRUPTED
    assert "nothing was trained" in capsys.readouterr().err


def test_the_first_renderer_that_works_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    working: set[str] = {"osmesa"}
    monkeypatch.setattr(rendering, "os", SimpleNamespace(environ=environment))
    monkeypatch.setattr(rendering, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(rendering, "find_spec", lambda name: object())
    monkeypatch.setattr(rendering, "renderer_works", lambda backend: backend in working)
    assert rendering.choose_mujoco_renderer() is None
    assert environment == {"MUJOCO_GL": "osmesa"}
    working.add("egl")
    assert rendering.choose_mujoco_renderer() is None
    assert environment == {"MUJOCO_GL": "osmesa"}, "what the user chose stays"
    environment.clear()
    assert rendering.choose_mujoco_renderer() is None
    assert environment == {"MUJOCO_GL": "egl"}
    environment.clear()
    working.clear()
    assert rendering.choose_mujoco_renderer() == rendering.REMEDY
    assert "libegl1" in rendering.REMEDY and "libosmesa6" in rendering.REMEDY
    environment["DISPLAY"] = ":0"
    assert rendering.choose_mujoco_renderer() is None, "a screen is there to draw on"


@pytest.mark.parametrize("screen", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_a_window_needs_a_screen_and_mujoco_draws_on_it(screen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {"MUJOCO_GL": "egl"}
    system = SimpleNamespace(platform="linux")
    monkeypatch.setattr(rendering, "os", SimpleNamespace(environ=environment))
    monkeypatch.setattr(rendering, "sys", system)
    with pytest.raises(InvalidArgument, match=r"no screen here .* use --video FILE, which needs none"):
        rendering.choose_window()
    assert environment == {"MUJOCO_GL": "egl"}
    environment[screen] = ":0"
    rendering.choose_window()
    assert environment == {"MUJOCO_GL": "glfw", screen: ":0"}
    environment.clear()
    system.platform = "darwin"
    rendering.choose_window()
    assert environment == {}, "MuJoCo's own choice is a window"


def test_without_a_screen_nothing_is_loaded_for_a_window() -> None:
    code = (
        "import sys; sys.platform = 'linux'; from sb3_ppo_plus.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {LOADED} if name in sys.modules], code)"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    words = ["eval", "no_such_run", "--render"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)
    assert done.stdout == "[] 2\n"
    assert done.stderr.startswith("error: --render opens a window, and there is no screen here")


def test_a_renderer_that_does_not_exist_does_not_work() -> None:
    assert not rendering.renderer_works("no-such-renderer")


def test_a_line_is_printed_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    line_printer = LinePrinter()
    for step in range(0, 1001, 25):
        line_printer(Progress(step, 1000, 1234.0, 65.4, mean_return=-3.21, evaluation=1000.5))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == " 10% · 1,234 steps/s · return -3.2 · evaluation 1,000.5 · 1:05 left"
    assert lines[-1].startswith("100%")
    assert describe(Progress(0, 10, 5.0, 1.0)) == "5 steps/s · 0:01 left"
