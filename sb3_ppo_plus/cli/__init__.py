"""The ``ppo-plus`` command line: wiring only; each command is imported when it is called."""

from __future__ import annotations

import argparse
import logging
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from sb3_ppo_plus import __version__
from sb3_ppo_plus.errors import InvalidArgument

# name: (module with HELP, add_arguments(parser) and run(args) -> exit code, help in one line)
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("sb3_ppo_plus.cli.train", "train a model on any Gymnasium environment"),
    "resume": ("sb3_ppo_plus.cli.resume", "go on with a run that was interrupted"),
    "eval": ("sb3_ppo_plus.cli.eval", "evaluate a trained model, record it, watch it"),
    "enjoy": ("sb3_ppo_plus.cli.enjoy", "watch a trained model, yours or one of the gallery"),
    "export": ("sb3_ppo_plus.cli.export", "write a trained model as one ONNX file, with the proof"),
    "verify": ("sb3_ppo_plus.cli.verify", "prove that an ONNX file acts like its model"),
    "benchmark": ("sb3_ppo_plus.cli.benchmark", "train a suite of tasks over seeds, and report on it"),
    "tune": ("sb3_ppo_plus.cli.tune", "search hyperparameters, confirm the best on new seeds"),
    "unity": ("sb3_ppo_plus.cli.unity", "look into a Unity game; convert a configuration of mlagents-learn"),
    "zoo": ("sb3_ppo_plus.cli.zoo", "run RL Baselines3 Zoo with ppo_plus in it"),
    "doctor": ("sb3_ppo_plus.cli.doctor", "tell what is wrong with a run, a configuration or the installation"),
    "run": ("sb3_ppo_plus.cli.run", "play an ONNX file with onnxruntime alone"),
}

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
# Of `ppo-plus tune`: no trial finished, or the study stopped itself; the winner does not beat the baselines.
EXIT_NOTHING, EXIT_NOT_BETTER = 3, 4


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors look like all other errors of this command line."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(f"{message}; see `{self.prog} --help`")


def main(argv: list[str] | None = None) -> int:
    """
    Run one command.

    :param argv: words after the program's name, None for those of this process
    :return: exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted, 143 and 138 ended by SIGTERM and SIGUSR1;
        3 and 4 are for `ppo-plus tune`
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        return _dispatch(words)
    except InvalidArgument as error:
        return _fail(str(error), EXIT_USAGE, debug)
    except KeyboardInterrupt:
        print("interrupted; nothing was trained or saved", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:  # the last resort: one line instead of a traceback
        hint = "" if debug else " (--debug shows where)"
        return _fail(f"{type(error).__name__}: {' '.join(str(error).split())}{hint}", EXIT_FAILED, debug)


def _dispatch(words: list[str]) -> int:
    """Find the command and run it."""
    if not words or words[0] in ("-h", "--help"):
        _overview().print_help()
        return EXIT_OK
    if words[0] == "--version":
        print(f"ppo-plus {__version__}")
        return EXIT_OK
    name, *rest = words
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(COMMANDS)}"
        raise InvalidArgument(f"unknown command {name!r}; {hint}")
    command = import_module(COMMANDS[name][0])
    parser = Parser(prog=f"ppo-plus {name}", description=command.HELP)
    command.add_arguments(parser)
    if getattr(command, "PASSES_WORDS_ON", False):
        _set_up_logging("--debug" in rest)
        _find_modules_here()
        return int(command.run_words(rest, parser))
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error, and the debug log")
    try:
        args, unknown = parser.parse_known_args(rest)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        close = get_close_matches(unknown[0].partition("=")[0], options, n=1)
        hint = f"did you mean {close[0]}?" if close else f"see `{parser.prog} --help`"
        raise InvalidArgument(f"unknown argument {unknown[0]!r}; {hint}")
    _set_up_logging(args.debug)
    _find_modules_here()
    return command.run(args)


class _CurrentStderr(logging.StreamHandler[Any]):
    """Standard error as it is at the time of writing: a live progress bar puts its own in place while it runs."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        pass


def _set_up_logging(debug: bool) -> None:
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[_CurrentStderr()])
    # What was chosen for the user is said in one line.
    logging.getLogger("sb3_ppo_plus.compile_choice").setLevel(min(level, logging.INFO))
    if debug:
        # The libraries' own debug lines drown ours.
        for library in ("matplotlib", "PIL", "OpenGL", "imageio"):
            logging.getLogger(library).setLevel(logging.INFO)


def _find_modules_here() -> None:
    """Let ``--env module:Name`` find modules of the current folder; what is installed comes first."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _overview() -> argparse.ArgumentParser:
    """What ``ppo-plus --help`` prints; it imports no command."""
    lines = "\n".join(f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items())
    return argparse.ArgumentParser(
        prog="ppo-plus",
        usage="ppo-plus COMMAND [...]",
        description=f"PPO for people who already use Stable-Baselines3.\n\ncommands:\n{lines}",
        epilog="`ppo-plus COMMAND --help` explains a command; `ppo-plus --version` prints the version.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        logging.basicConfig()
        logging.getLogger(__name__).exception("traceback, because of --debug")
    print(f"error: {message}", file=sys.stderr)
    return code
