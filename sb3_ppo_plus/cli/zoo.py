"""``ppo-plus zoo``."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = (
    "Run RL Baselines3 Zoo with ppo_plus registered: `ppo-plus zoo train --env CartPole-v1`. Arguments are the zoo's, "
    "see `ppo-plus zoo train --help`; --algo ppo_plus and the blocks of this package are filled in, train takes "
    "--vec-env native as well, and nothing that files say is evaluated or unpickled unless --trust is given."
)

# Everything after the command is the zoo's to read.
PASSES_WORDS_ON = True
_OWN = ("export-run", "import-run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    parser.add_argument(
        "what",
        metavar="COMMAND",
        help="train, enjoy, record_video, record_training, benchmark, load_from_hub, push_to_hub, plot_train, "
        "plot_from_file, all_plots of the zoo; export-run, import-run between its run folders and this package's",
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, help="arguments of that command")


def run_words(words: list[str], parser: argparse.ArgumentParser) -> int:
    """
    :param words: what was typed after ``zoo``
    :param parser: parser of this command, for its help
    :return: exit code
    """
    from sb3_ppo_plus.cli import EXIT_OK

    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        parser.print_help()
        return EXIT_OK
    command, *rest = words
    if command in _OWN:
        return _move(command, rest)
    from sb3_ppo_plus.zoo import launch

    try:
        launch(command, rest)
    except SystemExit as ended:  # --help of the zoo, or an argument that it refuses
        return ended.code if isinstance(ended.code, int) else EXIT_OK if ended.code is None else 1
    return EXIT_OK


def _move(command: str, words: list[str]) -> int:
    from sb3_ppo_plus.cli import EXIT_OK, Parser
    from sb3_ppo_plus.zoo.folders import export_run, import_run

    exports = command == "export-run"
    parser = Parser(
        prog=f"ppo-plus zoo {command}", description="copy a run folder " + ("to" if exports else "from") + " the zoo"
    )
    parser.add_argument("source", type=Path, metavar="FOLDER", help="runs/ENV_1" if exports else "logs/ppo_plus/ENV_1")
    default = Path("logs" if exports else "runs")
    parser.add_argument("--to", type=Path, default=default, metavar="FOLDER", help=f"where it is copied to ({default})")
    try:
        args = parser.parse_args(words)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    made = (export_run if exports else import_run)(args.source, args.to)
    print(f"wrote {made}")
    name, _, number = made.name.rpartition("_")
    look = f"ppo-plus zoo enjoy --env {name} -f {args.to} --exp-id {number}" if exports else f"ppo-plus eval {made}"
    print(f"  look at it       {look}")
    return EXIT_OK
