"""Workers on a cluster: a SLURM array, or local processes through submitit."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.tuning.storage import hidden
from sb3_ppo_plus.tuning.study import Opened

# Seconds before its end at which a job is told, so that it leaves a checkpoint.
_NOTICE = 60


def write_array(
    opened: Opened, folder: Path, n_jobs: int, time: str, further: list[str], options: dict[str, Any]
) -> Path:
    """
    Write a script for sbatch. Its jobs may be preempted and put back: each begins where the storage says.

    :param opened: the study
    :param folder: folder of the study, on a file system that the nodes share
    :param n_jobs: tasks of the array
    :param time: time limit of a job, as sbatch takes it
    :param further: options of sbatch as they stand after #SBATCH
    :param options: options of `tune worker`
    :return: the script
    :raises InvalidArgument: for numbers or options that sbatch would refuse
    """
    if n_jobs < 1:
        raise InvalidArgument(f"n_jobs is {n_jobs}; give at least 1")
    if not re.fullmatch(r"\d+|\d+:\d\d|(\d+-)?\d+(:\d\d){0,2}", time):
        raise InvalidArgument(f"time is {time!r}; write minutes, hours:minutes:seconds or days-hours")
    for line in further:
        if not line.startswith("-") or "\n" in line:
            raise InvalidArgument(f"--sbatch {line!r} is no option; write for example --sbatch=--partition=cpu")
    if hidden(opened.url) != opened.url:
        raise InvalidArgument("the storage's URL has a password, which does not belong in a script; use ~/.pgpass")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sb3_ppo_plus", "tune", "worker", "--no-progress"]
    command += ["--storage", _absolute(opened.url), "--study-name", opened.name, "--dir", str(folder.resolve().parent)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    workers = int(options.get("workers", 1))
    lines = [
        "#!/usr/bin/env bash",
        f"# Workers of study {opened.name}. Submit again at any time: what was left is taken up.",
        f"#SBATCH --job-name={_word(opened.name)}",
        f"#SBATCH --array=0-{n_jobs - 1}",
        f"#SBATCH --cpus-per-task={workers}",
        f"#SBATCH --time={time}",
        f"#SBATCH --signal=TERM@{_NOTICE}",
        "#SBATCH --requeue",
        f"#SBATCH --output={folder.resolve() / 'slurm-%A_%a.log'}",
        *(f"#SBATCH {line}" for line in further),
        "export OMP_NUM_THREADS=1",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"exec srun {shlex.join(command)}",
    ]
    script = folder / "workers.sbatch"
    atomic_write(script, "\n".join(lines) + "\n")
    return script


def submit_array(script: Path) -> str:
    """
    :param script: result of ``write_array``
    :return: what sbatch said
    :raises InvalidArgument: when there is no sbatch, or it refuses
    """
    if shutil.which("sbatch") is None:
        raise InvalidArgument(f"there is no sbatch on this machine; submit {script} where there is, or take --dry-run")
    done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InvalidArgument(f"sbatch refused {script}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def start_local(opened: Opened, folder: Path, n_jobs: int, options: dict[str, Any], seconds: float | None) -> list[str]:
    """
    Start workers on this machine that outlive this process, through submitit.

    :param opened: the study
    :param folder: folder of the study
    :param n_jobs: workers
    :param options: options of a worker
    :param seconds: time after which each leaves off, None for none
    :return: submitit's ids of the jobs
    :raises InvalidArgument: without submitit
    """
    try:
        import submitit
    except ImportError as missing:
        raise InvalidArgument('engine local needs submitit; pip install "sb3-ppo-plus[slurm]"') from missing
    from sb3_ppo_plus.tuning.process import work_until_told

    executor = submitit.LocalExecutor(folder=folder / "submitit")
    # submitit kills what runs longer than this; a worker leaves off by itself before.
    executor.update_parameters(timeout_min=60 * 24 * 365)
    settings = {name: value for name, value in options.items() if name != "workers"}
    settings |= {"url": _absolute(opened.url), "study": opened.name, "folder": str(folder.resolve())}
    jobs = []
    for index in range(n_jobs):
        jobs.append(executor.submit(work_until_told, {**settings, "worker": f"local-{index}", "seconds": seconds}))
    return [str(job.job_id) for job in jobs]


def _absolute(url: str) -> str:
    """A job may start in another folder."""
    for scheme in ("journal:", "sqlite:///"):
        if url.startswith(scheme):
            return f"{scheme}{Path(url.removeprefix(scheme)).resolve()}"
    return url


def _word(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
