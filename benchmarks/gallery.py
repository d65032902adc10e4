"""
Make the model gallery from runs of ``ppo-plus benchmark``: of each task the run with the best final evaluation.

    python benchmarks/gallery.py benchmark_runs/mujoco_1m --videos docs/images/gallery

Each folder of the gallery is a run folder: model, statistics of its normalizer, configuration, the ONNX file that was
proven to act as the model does, and a card. The card also has the returns of the seeds that were not taken.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.benchmark.results import BenchmarkFolder, Result, RunPlace, results_of
from sb3_ppo_plus.cli.rendering import choose_mujoco_renderer
from sb3_ppo_plus.files.normalizer import read_normalizer

ROOT = Path(__file__).resolve().parents[1]
FILES = ("config.yml", "model.zip", "vecnormalize.pkl")
#: of the card's own evaluation; none of training, of a benchmark or of `ppo-plus eval`
SEED, EPISODES = 4_000_000, 100


@dataclass(frozen=True)
class Choice:
    """
    The run that represents a task.

    :param place: its folder
    :param result: what it came to
    :param others: final returns of all seeds, its own among them
    :param suite: name of the suite
    """

    place: RunPlace
    result: Result
    others: dict[int, float]
    suite: str


def choose(folder: BenchmarkFolder, variant: str | None, tasks: Sequence[str] | None) -> list[Choice]:
    """
    :param folder: folder of a benchmark
    :param variant: name of the configuration, None for the first one
    :param tasks: environments, None for all
    :return: the best run of each task by its final evaluation
    """
    suite = folder.open_suite()
    variant = variant or suite.variants[0].name
    runs, _ = results_of(suite, folder.read())
    choices = []
    for task in (task.env for task in suite.tasks if tasks is None or task.env in tasks):
        found = [(plan, result) for plan, result in runs if (result.variant, result.task) == (variant, task)]
        scores = {result.seed: result.final_return for _, result in found if result.done}
        known = {seed: score for seed, score in scores.items() if score is not None}
        if not known:
            continue
        best = max(known, key=lambda seed: known[seed])
        plan, result = next((plan, result) for plan, result in found if result.seed == best)
        choices.append(Choice(folder.run(plan), result, known, suite.name))
    return choices


def add(choice: Choice, gallery: Path, videos: Path | None) -> Path:
    """
    :param choice: run to add
    :param gallery: folder of the gallery
    :param videos: folder of the GIFs, None for none
    :return: its folder in the gallery
    """
    from sb3_ppo_plus.runs.evaluate import evaluate_agent, load_agent
    from sb3_ppo_plus.runs.exporting import export_source, open_source
    from sb3_ppo_plus.runs.video import VideoFormat, record_video

    target = gallery / choice.result.task
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (choice.place.path / name).is_file():
            atomic_write(target / name, (choice.place.path / name).read_bytes())
    report = export_source(open_source(target), target / "policy.onnx", "robot")
    agent = load_agent(target)
    evaluation = evaluate_agent(agent, EPISODES, SEED)
    atomic_write(target / "README.md", card(choice, target, evaluation.returns, report.text()))
    if videos is not None:
        videos.mkdir(parents=True, exist_ok=True)
        form = VideoFormat(width=240, height=180, seconds=4.0, max_fps=20, colors=64)
        record_video(agent, videos / f"{choice.result.task}.gif", SEED, form=form)
    return target


def card(choice: Choice, place: Path, returns: Sequence[float], proof: str) -> str:
    """
    :param choice: the run
    :param place: its folder in the gallery
    :param returns: returns of the card's own evaluation
    :param proof: what the export printed
    :return: text of the card
    """
    result = choice.result
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    others = ", ".join(f"{seed}: {score:,.1f}" for seed, score in sorted(choice.others.items()))
    rows = {
        "task": f"Gymnasium's {result.task}, as it is",
        "trained by": f"`PPOPlus`, configuration `{result.variant}` of the suite `{choice.suite}`, seed {result.seed}; "
        "everything is in [config.yml](config.yml)",
        "repeat it": f"`ppo-plus train --config gallery/{result.task}/config.yml`",
        "watch it": f"`ppo-plus enjoy --from-gallery {result.task}`",
        "evaluation": f"mode of the policy, environments of seeds from {SEED:,}: neither trained in nor chosen by",
        "worst and best episode": f"{min(returns):,.1f}, {max(returns):,.1f}",
        "chosen": f"the best of {len(choice.others)} seeds by ten other episodes; returns by seed: {others}; mean "
        f"{np.mean(list(choice.others.values())):,.1f}",
        "training time": f"{result.seconds:,.0f} s, `--jobs {result.jobs}`, {result.machine}",
        "versions": versions,
    }
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    normalized = read_normalizer(place / "vecnormalize.pkl", trust=False).norm_obs
    observations = f"its observations are {'normalized by `vecnormalize.pkl`' if normalized else 'not normalized'}."
    return f"""# {result.task}

Return {np.mean(returns):,.1f} ± {np.std(returns):,.1f} in {len(returns)} episodes, after {result.steps:,} steps of PPO.

| | |
|---|---|
{table}

`model.zip` opens with `PPOPlus.load` and with SB3's `PPO.load`; {observations}
`policy.onnx` takes raw observations: `OnnxPolicy("policy.onnx").act(observation)`. Proof of the export:

```text
{proof.strip().replace(f"{place}/", "")}
```

Made to be looked at and tested against: it knows Gymnasium's model of this robot and nothing else.
"""


def write_index(gallery: Path) -> None:
    """
    :param gallery: folder of the gallery; gets a page that lists what is in it
    """
    cards = sorted(gallery.glob("*/README.md"))
    firsts = [(path.parent.name, path.read_text(encoding="utf-8").splitlines()[2]) for path in cards]
    rows = [f"| [{name}]({name}/README.md) | {line} |" for name, line in firsts]
    text = """# Trained robots

Watch one with `ppo-plus enjoy --from-gallery NAME`; what is in the folders, and how they were made, is told in
[docs/gallery.md](../docs/gallery.md).

| robot | |
|---|---|
"""
    atomic_write(gallery / "README.md", text + "\n".join(rows) + "\n")


def main() -> None:
    """Read the command line and make the gallery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of a benchmark")
    parser.add_argument("--variant", default=None, help="name of the configuration (the first one)")
    parser.add_argument("--tasks", default=None, help="environments, with commas (all)")
    parser.add_argument("--gallery", type=Path, default=ROOT / "gallery", help="folder to write to (gallery)")
    parser.add_argument("--videos", type=Path, default=None, help="folder of the GIFs; none without it")
    args = parser.parse_args()
    if args.videos is not None and (missing := choose_mujoco_renderer()):
        raise SystemExit(missing)
    tasks = args.tasks.split(",") if args.tasks else None
    for choice in choose(BenchmarkFolder(args.folder), args.variant, tasks):
        print(add(choice, args.gallery, args.videos))
    write_index(args.gallery)


if __name__ == "__main__":
    main()
