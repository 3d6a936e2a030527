"""`python -m lvtrain` is the `lvtrain` program.

Ctrl-C and SIGTERM end it in one line from here on, before anything else is imported: nothing is
begun yet that would have to be ended in order, as `lvtrain.commands.signals` does later.
"""

import os
import signal
from types import FrameType


def main() -> None:
    """Entry point of the `lvtrain` program."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as a shell's background jobs have it
            signal.signal(signum, _end)
    from lvtrain import cli

    cli.main()


def _end(signum: int, frame: FrameType | None) -> None:
    said = "terminated" if signum == signal.SIGTERM else "interrupted"
    try:
        os.write(2, f"lvtrain: error: {said}\n".encode())
    finally:
        os._exit(128 + signum)


if __name__ == "__main__":
    main()
