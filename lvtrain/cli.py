"""`lvtrain COMMAND …`: finds the command's module, and turns users' mistakes into one line.

Commands are imported when they are asked for: torch takes seconds to import, `lvtrain --help` less
than one to answer.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lvtrain.commands.signals import Terminated, signals_raised
from lvtrain.errors import Lost, NonFiniteLoss, Notice, UserError, lacks_memory, nearest

COMMANDS = {
    "prepare": ("prepare", "turn text into a store to train on"),
    "train": ("train", "train a system, or go on with a run"),
    "generate": ("generate", "write new sentences, one a line"),
    "reconstruct": ("reconstruct", "pass sentences through their codes"),
    "interpolate": ("interpolate", "write the sentences between two"),
    "arithmetic": ("arithmetic", "move sentences by the difference of two groups of sentences"),
    "translate": ("translate", "translate lines of text"),
    "evaluate": ("evaluate", "measure a run: perplexities, reconstruction, diversity"),
    "report": ("report", "write a run's report.html"),
    "inspect": ("inspect", "describe a run or a store; verify its checksums"),
    "export": ("export", "write the model alone, to be used without its run"),
    "grammar": ("grammar", "write sentences of the embedded grammar"),
    "doctor": ("doctor", "say what this machine offers and what will be used"),
}


def main() -> None:
    """Run the `lvtrain` program; its entry point is in `lvtrain.__main__`."""
    begin(lambda: run(sys.argv[1:]))


def begin(program: Callable[[], int]) -> None:
    """Run a whole program, to its exit status."""
    # Threads of torch's OpenMP wait for each other by spinning, for milliseconds by default: beside
    # any other busy process that is most of the time, and steps become tens of times slower. Read
    # when torch is imported, which is later; who sets it in the environment is heard.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    _open_streams()
    with signals_raised():
        status = program()
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run a command line; gives the exit status."""
    return guarded(lambda: _dispatch(argv))


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command and say in a line what went wrong; gives the exit status: 0, 2 for a mistake of
    the user's, 1 for a training stopped by a non-finite loss or a node that is gone, 130 after
    Ctrl-C, 143 after SIGTERM."""
    try:
        with _notices_printed():
            status = command() or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        return _fail(str(error), 2)
    except (NonFiniteLoss, Lost) as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        _drop_output()  # Its reader has gone.
        return 0
    except KeyboardInterrupt as stop:
        return _fail(_noted("interrupted", stop), 130)
    except Terminated as stop:
        return _fail(_noted("terminated", stop), 143)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why = os.strerror(error.errno).lower()
            return _fail(f"{why}: {error.filename or 'while writing'}", 2)
        # What the file system says of a file the user knows of and can mend.
        if error.filename and error.strerror:
            return _fail(f"{error.filename}: {error.strerror}", 2)
        raise
    except Exception as error:
        if (lacking := lacks_memory(error)) is not None:
            return _fail(lacking, 2)
        raise


def _open_streams() -> None:
    """Have the null device where a standard stream is closed: in order, so that each takes its own
    number, and no file that is opened later is written to by whoever writes to that."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    binary = getattr(sys.stdout, "buffer", None)
    if isinstance(binary, io.RawIOBase):
        # PYTHONUNBUFFERED: a raw file leaves what a full disk did not take of a write, unsaid.
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(binary),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=True,
        )


@contextmanager
def _notices_printed() -> Iterator[None]:
    """Print what users are to know as a line on standard error; other warnings as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, Notice):
                print(f"lvtrain: warning: {message}", file=sys.stderr)
            else:
                before(message, category, *rest, **more)

        warnings.showwarning = show
        yield


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        from lvtrain import __version__

        print(f"lvtrain {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        raise UserError(f"unknown command '{name}'{nearest(name, COMMANDS)} (see lvtrain --help)")
    command = importlib.import_module(f"lvtrain.commands.{COMMANDS[name][0]}")
    return command.run(argv[1:]) or 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    return (
        "usage: lvtrain COMMAND [OPTIONS]\n\n"
        "Train latent-variable and adversarial text models.\n\n"
        f"commands:\n{lines}\n\n"
        "example:\n"
        "  lvtrain prepare corpus.txt --out store\n"
        "  lvtrain train arae --data store --out runs/first --preset tiny\n"
        "  lvtrain generate runs/first --num 10\n\n"
        "lvtrain COMMAND --help says more of each."
    )


def _noted(message: str, error: BaseException) -> str:
    """A message with what was noted of an error on its way here, such as that work was kept."""
    return "; ".join((message, *getattr(error, "__notes__", ())))


def _fail(message: str, status: int) -> int:
    print(f"lvtrain: error: {message}", file=sys.stderr)
    _drop_output()
    return status


def _drop_output() -> None:
    """Let go of output that cannot be written: at exit it must not raise again."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):  # a stream without a number
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
