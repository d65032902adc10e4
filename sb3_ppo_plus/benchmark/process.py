"""
The process of one run: ``python -m sb3_ppo_plus.benchmark.process FOLDER``, which the runner starts.

A run that takes its process down (a simulator that crashes, memory that runs out) so costs one result, not the others.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from sb3_ppo_plus.atomic import atomic_write

logger = logging.getLogger(__name__)


class Orphaned(BaseException):
    """The runner is gone; nobody would note the result."""


def work(folder: Path) -> int:
    """
    Train what the job says, and write what it came to.

    :param folder: folder of the run
    :return: exit code: 0 done, 1 failed
    """
    started = time.perf_counter()
    # Here, so that whatever is wrong with an import is a reason too.
    from sb3_ppo_plus.benchmark.results import RunPlace
    from sb3_ppo_plus.benchmark.training import Standing, train_one
    from sb3_ppo_plus.runs.config import config_from_mapping

    place = RunPlace(folder)
    job = json.loads(place.job.read_text(encoding="utf-8"))

    def tell(standing: Standing) -> None:
        if os.getppid() != job["parent"]:
            raise Orphaned
        # Lost when the machine goes down, and not needed then: no fsync, which a training would wait for.
        temporary = place.progress.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(standing)), encoding="utf-8")
        os.replace(temporary, place.progress)

    try:
        config = config_from_mapping(job["config"])
        outcome = train_one(job["kind"], config, job["last_episodes"], place, tell, job["n_threads"])
    except Exception as error:  # whatever it was, it is the result of this run
        traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        outcome, code = {"state": "failed", "reason": reason[:500]}, 1
    else:
        outcome, code = {"state": "done", **outcome}, 0
    atomic_write(place.outcome, json.dumps({**outcome, "total_seconds": time.perf_counter() - started}))
    return code


def main() -> int:
    """
    :return: exit code
    """
    # Ctrl-C is for the runner, which ends this process; both may be of one terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("sb3_ppo_plus.compile_choice").setLevel(logging.INFO)
    sys.path.append(str(Path.cwd()))  # as the command line does, for environments of one's own
    try:
        return work(Path(sys.argv[1]))
    except Orphaned:
        logger.error("the process that started this one is gone")
        return 1


if __name__ == "__main__":
    sys.exit(main())
