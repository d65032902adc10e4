"""The parent's side of one worker: started, asked, and ended in whatever state it is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from sb3_ppo_plus.envs.processes import worker as worker_module
from sb3_ppo_plus.envs.processes.budget import Budget, RestartLimits
from sb3_ppo_plus.envs.processes.errors import Lost
from sb3_ppo_plus.envs.processes.memory import Descriptor, Layout, Memory, make_file
from sb3_ppo_plus.envs.processes.wire import MEMORY, RAISED, Gone, Late, Wire

# Seconds that a worker gets to close its environments: at the end, and when it is replaced.
_GRACE, _HASTE = 2.5, 0.5
# Seconds that others get when one has used up the time that all had.
_HURRY = 0.1
# Bytes of a crash report that are told.
_TOLD = 8192


class Worker:
    """
    One worker process after another in the same place.

    :param context: of multiprocessing
    :param number: of this worker
    :param rows: environments it has
    :param makers: pickled functions that make them
    :param limits: how often it is started again
    :param timeout: seconds for one answer, None for as long as it likes
    """

    def __init__(
        self,
        context: Any,
        number: int,
        rows: Sequence[int],
        makers: bytes,
        limits: RestartLimits,
        timeout: float | None,
    ) -> None:
        self.context, self.number, self.rows, self.makers = context, number, rows, makers
        self.timeout = timeout
        self.budget = Budget(limits)
        #: what it was asked to do and has not answered; empty when it is idle
        self.doing = ""
        self.process: BaseProcess | None = None
        self._memory: Memory | None = None
        self._wire: Wire | None = None
        self._log = -1

    @property
    def pid(self) -> int:
        """:return: number of the process, -1 for none"""
        return -1 if self.process is None or self.process.pid is None else self.process.pid

    def start(self, start_timeout: float | None) -> None:
        """
        Start a process; :meth:`answer` gives the spaces of its environments.

        :param start_timeout: seconds until it must have made them
        :raises Lost: when there can be no process
        """
        own, other = socket.socketpair()
        self._wire, self._log, self._memory = Wire(own), make_file(0), None
        self._wire.wait_at_most(start_timeout)
        arguments = (other, Descriptor(self._log), self.makers, self.rows, self.number)
        name = (
            f"environments {self.rows[0]} to {self.rows[-1]}" if len(self.rows) > 1 else f"environment {self.rows[0]}"
        )
        self.process, self.doing = None, "start"
        process = self.context.Process(target=worker_module.main, args=arguments, name=name, daemon=True)
        try:
            process.start()
        except (OSError, EOFError) as error:
            self.kill()
            raise Lost(self, "died", self.rows[0], f"got no process: {type(error).__name__}: {error}") from error
        finally:
            # The only other end is the worker's now: when it dies, reading ends.
            other.close()
        self.process = process

    def share(self, memory: Memory, layout: Layout) -> None:
        """
        Hand the memory to a worker that was just started; from now on an answer has the usual time.

        :param memory: shared memory
        :param layout: what lies in it
        :raises Lost: when the worker is gone
        """
        assert self._wire is not None
        self._memory = memory
        memory.serving[self.number] = -1
        self._wire.wait_at_most(self.timeout)
        self.ask("start", MEMORY, layout)
        try:
            socket.send_fds(self._wire.sock, [b"m"], [memory.fd])
        except OSError as error:
            raise self._died() from error
        self.doing = ""

    def ask(self, doing: str, kind: bytes, content: Any = None) -> None:
        """
        :param doing: what it is to do, in a word, for messages
        :param kind: of the message
        :param content: what comes with it
        :raises Lost: when the worker is gone, or does not listen
        """
        assert self._wire is not None
        self.doing = doing
        try:
            self._wire.send(kind, content)
        except Gone as gone:
            raise self._died() from gone
        except Late as late:
            raise self._hung() from late

    def answer(self, hurry: bool = False) -> tuple[bytes, Any]:
        """
        Wait for its answer.

        :param hurry: whether its time is over already, as another worker's was that was asked with it
        :return: kind of the answer, and what came with it
        :raises Lost: when the worker is gone, does not answer in time, or its environment raised
        """
        assert self._wire is not None
        before = self._wire._patience
        if hurry:
            self._wire.wait_at_most(_HURRY)
        try:
            kind, content = self._wire.receive()
        except Gone as gone:
            raise self._died() from gone
        except Late as late:
            raise self._hung(before) from late
        if hurry:
            self._wire.wait_at_most(before)
        if kind == RAISED:
            raise self._raised(*content)
        self.doing = ""
        return kind, content

    # ------------------------------------------------ how it is lost

    def _died(self) -> Lost:
        assert self.process is not None
        self.process.join(1.0)
        code = self.process.exitcode
        env_index = self._busy_with()
        if code is None:
            how = f"closed its connection in {self._when()} and runs on"
        elif code < 0:
            how = f"was killed by {_signal_name(-code)} in {self._when()}"
            how += " (the kernel does that when memory runs out)" if -code == signal.SIGKILL else ""
        else:
            how = f"ended its process with exit code {code} in {self._when()}"
            if self.doing == "start" and self._memory is None:
                how += '; a program that makes environments has to be under `if __name__ == "__main__":`'
        said = self._last_words()
        self.end(_HASTE)
        return Lost(self, "died", env_index, how, code, said)

    def _hung(self, patience: float | None = None) -> Lost:
        assert self.process is not None
        env_index = self._busy_with()
        # faulthandler answers even while C code runs: where the worker hangs is the best hint of why.
        if self._signal(signal.SIGUSR1):
            deadline = time.monotonic() + _HASTE
            while not self._last_words() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.01)  # it is not written at once
        seconds = self.timeout if patience is None else patience
        name = "start_timeout" if self.doing == "start" and self._memory is None else "timeout"
        how = f"did not answer in {self._when()} within {seconds:g} seconds ({name})"
        said = self._last_words()
        self.kill()
        return Lost(self, "hung", env_index, how, None, said)

    def _raised(self, env_index: int, text: str) -> Lost:
        how = f"raised in {self._when()}: {text.strip().splitlines()[-1]}"
        return Lost(self, "raised", env_index, how, self.end(_HASTE), text)

    def _when(self) -> str:
        return self.doing or "between two steps"

    def _busy_with(self) -> int:
        busy = -1 if self._memory is None else int(self._memory.serving[self.number])
        return busy if busy in self.rows else self.rows[0]

    def _last_words(self) -> str:
        if self._log < 0:
            return ""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, _TOLD, max(0, size - _TOLD)).decode(errors="replace")

    # ------------------------------------------------ how it is ended

    def hang_up(self) -> None:
        """Tell it to end; an idle worker closes its environments and does."""
        if self._wire is not None:
            self._wire.close()

    def join(self, seconds: float) -> None:
        """:param seconds: how long to wait for its end"""
        if self.process is not None:
            self.process.join(seconds)

    def strike(self) -> None:
        """Kill it, and whatever it has started, and do not wait for that."""
        self.hang_up()
        if self.process is not None and self.process.pid is not None:
            with contextlib.suppress(OSError):
                # It leads a group of its own once it has begun, which may outlive it.
                os.killpg(self.process.pid, signal.SIGKILL)
            self._signal(signal.SIGKILL)
        self.doing = ""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def kill(self) -> int | None:
        """
        End it at once, and whatever it has started.

        :return: exit code of the process, None when it had none yet
        """
        self.strike()
        self.join(1.0)
        process, self.process = self.process, None
        return None if process is None else process.exitcode

    def end(self, seconds: float) -> int | None:
        """
        Let it end by itself, and kill it when it does not, and whatever it has started.

        :param seconds: how long it may take
        :return: exit code of the process, None when it had none yet
        """
        self.hang_up()
        self.join(seconds)
        return self.kill()

    def _signal(self, number: int) -> bool:
        """Send a signal to the process, if it is still there to get it."""
        process = self.process
        if process is None or process.pid is None or not process.is_alive():
            return False
        with contextlib.suppress(OSError):
            os.kill(process.pid, number)
        return True


def end_all(workers: Iterable[Worker]) -> None:
    """
    End workers together, in less than five seconds.

    :param workers: those that are running, and others
    """
    workers = list(workers)
    # All are told before the first is waited for.
    for worker in workers:
        worker.hang_up()
    for seconds in (_GRACE, 1.0):
        deadline = time.monotonic() + seconds
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        for worker in workers:
            worker.strike()
    for worker in workers:
        # The number may belong to another process soon.
        worker.process = None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
