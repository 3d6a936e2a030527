"""A Ray cluster on this machine alone, for the time of a run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray

from lvtrain.cluster.sigterm import sigterm_blocked
from lvtrain.commands.signals import signals_held


def start() -> None:
    """Start Ray's processes and be their driver.

    A signal is raised when they are there, and can be ended in turn: of what is half started, Ray
    knows nothing. A second Ctrl-C is raised at once.
    """
    print("starting Ray on this machine", file=sys.stderr, flush=True)
    # Ray would have its workers give way to all else on the machine; they are the run itself.
    os.environ.setdefault("RAY_worker_niceness", "0")
    main = threading.current_thread() is threading.main_thread()
    with signals_held() if main else nullcontext(), sigterm_blocked(), _apart():
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )


class _Apart(threading.local):
    """Whether what this thread starts gets a process group of its own."""

    asked = False


_apart_now = _Apart()


@contextmanager
def _apart() -> Iterator[None]:
    """Put each process that Ray starts here into a process group of its own.

    Ctrl-C in a terminal, `timeout` and others signal a whole group. If Ray's processes ended of
    that the run could not end in order: Ray's library waits for them for a minute, deaf to signals,
    and then aborts the process. They end with this one all the same, however it ends.
    """
    _apart_now.asked = True
    try:
        yield
    finally:
        _apart_now.asked = False


def _in_child() -> None:
    if _apart_now.asked:
        os.setpgrp()
        # Inherited: what Ray starts is ended by it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


# Ray takes no process group, but gives `subprocess` a function to call in the child, and so has
# this one called.
os.register_at_fork(after_in_child=_in_child)
