"""`lvtrain COMMAND …`: finds the command's module, and turns users' mistakes into one line.

Commands are imported when they are asked for: torch takes seconds to import, `lvtrain --help` less
than one to answer.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys

from lvtrain.errors import NonFiniteLoss, UserError, nearest

COMMANDS = {
    "prepare": ("prepare", "turn text into a store to train on"),
    "train": ("train", "train a system, or go on with a run"),
    "generate": ("generate", "write new sentences, one a line"),
    "reconstruct": ("reconstruct", "pass sentences through their codes"),
    "interpolate": ("interpolate", "write the sentences between two"),
    "arithmetic": ("arithmetic", "move sentences by the difference of two groups of sentences"),
    "evaluate": ("evaluate", "measure a run: perplexities, reconstruction, diversity"),
    "report": ("report", "write a run's report.html"),
    "inspect": ("inspect", "describe a run or a store; verify its checksums"),
    "export": ("export", "write the model alone, to be used without its run"),
    "grammar": ("grammar", "write sentences of the embedded grammar"),
    "doctor": ("doctor", "say what this machine offers and what will be used"),
}


# What the file system refuses for reasons that the user knows and can mend.
_STORAGE = {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT
}  # fmt: skip


def main() -> None:
    """Entry point of the `lvtrain` program."""
    # Threads of torch's OpenMP wait for each other by spinning, for milliseconds by default: beside
    # any other busy process that is most of the time, and steps become tens of times slower. Read
    # when torch is imported, which is later; who sets it in the environment is heard.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run a command line; gives the exit status: 0, 2 for a mistake of the user's, 1 for a training
    stopped by a non-finite loss."""
    try:
        status = _dispatch(argv)
        sys.stdout.flush()
        return status
    except UserError as error:
        return _fail(str(error), 2)
    except NonFiniteLoss as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        # The reader of our output has gone; what is left to flush must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _fail(f"no space left on device: {error.filename or 'while writing'}", 2)
        if error.filename and error.errno in _STORAGE:
            return _fail(f"{error.filename}: {error.strerror}", 2)
        raise


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


def _fail(message: str, status: int) -> int:
    print(f"lvtrain: error: {message}", file=sys.stderr)
    return status
