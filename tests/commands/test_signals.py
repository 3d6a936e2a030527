"""Ctrl-C and SIGTERM before the first step: one line, the usual status, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lvtrain.cli import run
from lvtrain.commands.signals import Terminated, signals_held, signals_raised

STATUS = {signal.SIGTERM: (143, "terminated"), signal.SIGINT: (130, "interrupted")}


# Runs the program and says when it does a thing for the first time.
TELLING = """
import os, sys
from lvtrain.__main__ import main

event, end = sys.argv[1:3]
sys.argv[1:3] = []

def tell(seen, arguments, told=[]):
    if seen == event and str(arguments[0]).endswith(end) and not told:
        told.append(True)
        os.write(1, b"!")

sys.addaudithook(tell)
main()
"""


@pytest.mark.parametrize(
    ("signum", "event", "end"),
    [
        (signal.SIGTERM, "import", "torch"),
        (signal.SIGTERM, "open", "store.json"),
        (signal.SIGINT, "open", ".lock"),
        (signal.SIGTERM, "import", "torch.utils.tensorboard"),
    ],
)
def test_a_signal_before_the_first_step_leaves_nothing(
    store: Path, tmp_path: Path, signum: signal.Signals, event: str, end: str
) -> None:
    out = tmp_path / "runs" / "first"
    command = [
        "train", "lm", "--preset", "tiny", "--data", str(store), "--out", str(out), "--steps", "2",
        "--batch-size", "8", "--threads", "1",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", TELLING, event, end, *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.read(1) == b"!"
    process.send_signal(signum)
    said = process.communicate(timeout=60)[1].decode()
    status, word = STATUS[signum]
    assert (process.returncode, said) == (status, f"lvtrain: error: {word}\n")
    assert not out.exists()
    assert run([*command, "--no-tensorboard"]) == 0, "the same command runs again"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_prepare_says_that_its_work_was_kept(tmp_path: Path, signum: signal.Signals) -> None:
    (tmp_path / "corpus").write_text("a b\nc\n" * 100)
    waiting = TELLING.replace('b"!")', 'b"!") and os.read(0, 1)')
    command = ["prepare", str(tmp_path / "corpus"), "--out", str(tmp_path / "store")]
    process = subprocess.Popen(
        [sys.executable, "-c", waiting, "open", "00000.json", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.read(1) == b"!"
    process.send_signal(signum)
    said = process.communicate(timeout=60)[1].decode()
    status, word = STATUS[signum]
    expected = f"lvtrain: error: {word}; the same command goes on from there\n"
    assert (process.returncode, said) == (status, expected)
    assert (tmp_path / ".store.work").is_dir()
    assert run(command) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_program_is_imported_is_one_line(signum: signal.Signals) -> None:
    stops = f"import os; os.kill(os.getpid(), {int(signum)})"
    first = TELLING.replace('os.write(1, b"!")', stops)
    process = subprocess.run(
        [sys.executable, "-c", first, "import", "lvtrain.cli", "--help"],
        capture_output=True, text=True,
    )  # fmt: skip
    status, word = STATUS[signum]
    said = (process.returncode, process.stdout, process.stderr)
    assert said == (status, "", f"lvtrain: error: {word}\n")


def test_a_signal_within_an_import_is_raised_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is raised inside one may be caught there, or leave a library half imported."""
    (tmp_path / "slow_to_import.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('still here')\n"
        "except BaseException:\n    caught = True\n"
        "else:\n    caught = False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Terminated), signals_raised():
        import slow_to_import  # type: ignore[import-not-found]

        (lambda: None)()
        pytest.fail("not raised")
    assert not slow_to_import.caught
    assert sys.getprofile() is None


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(signum) for signum in STATUS]
    with pytest.raises(KeyboardInterrupt), signals_raised():
        os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(signum) for signum in STATUS] == before


@pytest.mark.parametrize(("signum", "kind"), [(signal.SIGTERM, Terminated),
                                              (signal.SIGINT, KeyboardInterrupt)])  # fmt: skip
def test_what_is_held_is_done_before_a_signal_ends_it_unless_there_is_a_second(
    signum: signal.Signals, kind: type[BaseException]
) -> None:
    before = [signal.getsignal(signum) for signum in STATUS]
    for times, expected in ((1, ["begun", "done"]), (2, ["begun"])):
        written: list[str] = []
        with pytest.raises(kind), signals_raised(), signals_held():
            written.append("begun")
            for _ in range(times):
                os.kill(os.getpid(), signum)
            written.append("done")
        assert written == expected
    assert [signal.getsignal(signum) for signum in STATUS] == before
