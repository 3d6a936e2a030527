"""Functions of tasks in parallel processes.

A worker is `python -P -m lvtrain.prepare.workers`: it imports no torch, takes a function and a task
from its standard input, and says on its standard output how far it is. When the process that
started it is killed, its input ends and so does it. It does not import the user's program again, as
the workers of `multiprocessing` do, so that a script needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, Self, TypeVar

import lvtrain
from lvtrain.errors import Passing, lacks_memory

Task = TypeVar("Task")
Advance = Callable[[int, int], None]
"""Told the bytes and words done since it was told last."""


class Workers(Protocol):
    """Whatever carries out tasks: this process, others, those of a cluster."""

    def run(
        self, function: Callable[[Task, Advance], None], tasks: Sequence[Task], advance: Advance
    ) -> None:
        """Call the function with every task, in any order; what it raises is raised here."""
        ...


class Here:
    """Carries tasks out one after the other in this process."""

    def run(
        self, function: Callable[[Task, Advance], None], tasks: Sequence[Task], advance: Advance
    ) -> None:
        for task in tasks:
            function(task, advance)


class Processes:
    """Carries tasks out in so many processes of this machine, which start when they are needed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):  # what is in its buffer has no reader any more
                    pipe.close()
        self._processes.clear()

    def run(
        self, function: Callable[[Task, Advance], None], tasks: Sequence[Task], advance: Advance
    ) -> None:
        count = min(self.count, len(tasks))
        if count <= 1:
            return Here().run(function, tasks, advance)
        while len(self._processes) < count:
            self._processes.append(_start())
        left: Iterator[Task] = iter(tasks)
        lock = threading.Lock()
        said: SimpleQueue[tuple[str, Any]] = SimpleQueue()

        def serve(process: subprocess.Popen[bytes]) -> None:
            try:
                while True:
                    with lock:
                        task = next(left, None)
                    if task is None:
                        break
                    _carry_out(process, function, task, said)
                said.put(("ended", None))
            except BaseException as error:
                said.put(("failed", error))

        threads: list[threading.Thread] = []
        ended = 0
        try:
            for process in self._processes[:count]:
                thread = threading.Thread(target=serve, args=(process,), daemon=True)
                thread.start()
                threads.append(thread)
            while ended < count:
                try:
                    what, value = said.get(timeout=1.0)  # no longer, so that signals are heard
                except Empty:
                    continue
                if what == "failed":
                    raise value
                if what == "advanced":
                    advance(*value)
                ended += what == "ended"
        finally:
            if ended < count:  # what they are at is of no use, and they would answer it later
                for process in self._processes:
                    process.kill()
            for thread in threads:
                thread.join()
            if ended < count:
                self.__exit__()


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Turn a lack of memory, threads or processes into `Passing`."""
    try:
        yield
    except Exception as error:
        if (said := _lacking(error)) is None:
            raise
        raise Passing(f"{said}: fewer --processes need less") from None


def _lacking(error: Exception) -> str | None:
    # What the system says where it starts no further process.
    return "out of processes" if isinstance(error, BlockingIOError) else lacks_memory(error)


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start() -> subprocess.Popen[bytes]:
    root = str(Path(lvtrain.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        # -P: what lies in the folder that the user works in is not to be imported.
        [sys.executable, "-P", "-m", "lvtrain.prepare.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Each is one of many: it has one thread for what numpy multiplies.
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for the one who started it to answer
    )


def _carry_out(
    process: subprocess.Popen[bytes], function: Any, task: Any, said: SimpleQueue[tuple[str, Any]]
) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump((function, task), process.stdin)
        process.stdin.flush()
        while True:
            what, value = pickle.load(process.stdout)
            if what == "done":
                return
            if what == "failed":
                raise value
            said.put((what, value))
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        status = process.wait()
        reason = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise Passing(
            f"a worker process {reason} (out of memory?): fewer --processes need less"
        ) from None


def _main() -> None:
    """Carry out what standard input says until it ends."""
    source = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer

    def say(what: str, value: Any) -> None:
        pickle.dump((what, value), answers)
        answers.flush()

    def answer(error: Exception) -> Exception:
        said = _lacking(error)
        if said is None:
            return error
        return Passing(f"a worker process is {said}: fewer --processes need less")

    try:
        import pyarrow as pa

        pa.set_cpu_count(1)
    except Exception as error:
        return say("failed", answer(error))
    while True:
        try:
            function, task = pickle.load(source)
        except EOFError:
            return
        except Exception as error:  # of an import
            return say("failed", answer(error))
        try:
            function(task, lambda *done: say("advanced", done))
        except BrokenPipeError:
            return
        except Exception as error:
            say("failed", answer(error))
        else:
            say("done", None)


if __name__ == "__main__":
    _main()
