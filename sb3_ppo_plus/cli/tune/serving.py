"""``ppo-plus tune serve`` and ``submit``."""

from __future__ import annotations

import argparse
import sys

from sb3_ppo_plus.cli import EXIT_INTERRUPTED, EXIT_OK
from sb3_ppo_plus.cli.tune.options import option
from sb3_ppo_plus.cli.tune.search import WORK, find, folder_of, refuse_differences
from sb3_ppo_plus.errors import InvalidArgument

_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def serve(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.tuning.serving import start_proxy

    if not option(args, "storage"):
        raise InvalidArgument("serve needs the --storage it stands in front of, for example sqlite:///studies.db")
    host, port = option(args, "host"), option(args, "port")
    server = start_proxy(args.storage, host, port)
    if host not in _THIS_MACHINE:
        print(f"note: whoever reaches {host}:{port} can change the studies; there is no password", file=sys.stderr)
    print(f"serving at grpc://{host}:{port}; Ctrl-C ends it", flush=True)
    try:
        server.wait_for_termination()
    except KeyboardInterrupt:
        server.stop(grace=5).wait()
        return EXIT_INTERRUPTED
    return EXIT_OK


def submit(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.tuning.submit import start_local, submit_array, write_array

    opened = find(args)
    refuse_differences(opened, allowed=False)
    folder = folder_of(args, opened)
    options = {name: getattr(args, name) for name in (*WORK, "workers") if hasattr(args, name)}
    n_jobs = option(args, "n_jobs")
    if option(args, "engine") == "local":
        jobs = start_local(opened, folder, n_jobs, options, option(args, "timeout"))
        print(f"started {len(jobs)} workers: {', '.join(jobs)}")
        print(f"  their output     {folder / 'submitit'}")
        return EXIT_OK
    if option(args, "engine") != "slurm":
        raise InvalidArgument(f"engine is {option(args, 'engine')!r}; choose slurm or local")
    script = write_array(opened, folder, n_jobs, option(args, "time"), list(option(args, "sbatch") or ()), options)
    print(f"wrote {script}")
    if option(args, "dry_run"):
        print(f"  submit it with   sbatch {script}")
        return EXIT_OK
    print(submit_array(script))
    return EXIT_OK
