"""A corpus of any size from nothing to training: what each stage takes, and what faults do to it.

python -m benchmarks.corpus --words 1e9 --work /data/corpus

Stages, in this order; each leaves its figures in `WORK/WORDS/STAGE.json` and is passed over where
they are there, so that the same command goes on where it was stopped:

    generate   the text, by as many processes as there are cores
    prepare    the store: words a second, memory of all processes together, bytes a token
    peers      others on the same text, where an interpreter that has them is given (--peers)
    read       tokens a second of one core, time to the first batch, resume, memory
    kill       `prepare` killed with SIGKILL at random moments, and run to the end
    damage     bytes of the shards changed at random places
    train      a preset for some steps (--train-steps), 0 for none
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import ORDERS
from benchmarks.provenance import provenance
from lvtrain.cli import guarded
from lvtrain.data.batches import Batches
from lvtrain.data.info import INDEX
from lvtrain.data.shards import ShardInfo
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.grammar.grammar import Grammar
from lvtrain.prepare.workers import cores

Figures = dict[str, Any]
LVTRAIN = [sys.executable, "-m", "lvtrain"]
STAGES = ("generate", "prepare", "peers", "read", "kill", "damage", "train")


def generate(work: Path, words: int, options: argparse.Namespace) -> Figures:
    """Write the text, a part by each process."""
    # Sentences are as many as have so many words on average; the sum of very many is close to it.
    sentences = round(words / Grammar().mean_words())
    count = options.processes
    bounds = [sentences * i // count for i in range(count + 1)]
    folder = work / "text"
    folder.mkdir(exist_ok=True)
    start = time.perf_counter()
    running = [
        subprocess.Popen(
            [*LVTRAIN, "grammar", "--seed", "1", "--start", str(bounds[i]),
             "--num", str(bounds[i + 1] - bounds[i]), "--out", str(folder / f"{i:03d}.txt")]
        )
        for i in range(count)
    ]  # fmt: skip
    usage = [_wait(process) for process in running]
    seconds = time.perf_counter() - start
    cpu = sum(used.ru_utime + used.ru_stime for used in usage)
    return {
        "words": words,
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "processes": count,
        "seconds": seconds,
        "words_per_second": words / seconds,
        "words_per_core_second": words / cpu,
    }


def prepare(work: Path, words: int, options: argparse.Namespace) -> Figures:
    """Make the store."""
    shutil.rmtree(work / "store", ignore_errors=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        _prepare(work, work / "store", options.processes), stdout=subprocess.DEVNULL
    )
    with Memory(process.pid) as memory:
        used = _wait(process)
    seconds = time.perf_counter() - start
    store = Store.open(work / "store", verify="size")
    split = store.info.splits.values()
    found, tokens = sum(one.words for one in split), sum(one.tokens for one in split)
    cpu = used.ru_utime + used.ru_stime  # of its workers, too: it has waited for them
    return {
        "words": found,
        "processes": options.processes,
        "seconds": seconds,
        "core_seconds": cpu,
        "words_per_second": found / seconds,
        "words_per_core_second": found / cpu,
        "peak_memory_bytes": memory.peak,
        "store_bytes": store.bytes,
        "bytes_per_token": store.bytes / tokens,
        "shards": sum(len(one.shards) for one in split),
    }


def peers(work: Path, words: int, options: argparse.Namespace) -> Figures:
    """Have others turn the same text into integers on a disk."""
    out = work / "peers"
    shutil.rmtree(out, ignore_errors=True)
    files = list(map(str, sorted((work / "text").iterdir())))
    command = [str(options.peers), "-m", "benchmarks.corpus_peers", str(out), *files]
    said = _said([*command, "--processes", str(options.processes)])
    shutil.rmtree(out, ignore_errors=True)
    return {"words": words, **json.loads(said.splitlines()[-1])}


def read(work: Path, words: int, options: argparse.Namespace) -> Figures:
    """Read batches, in processes of their own for their memory to mean something."""
    figures: Figures = {}
    for order in ORDERS:
        command = [sys.executable, "-m", "benchmarks.data", "--store", str(work / "store")]
        command += ["--seconds", str(options.seconds), "--order", order]
        figures[order] = json.loads(_said(command))
    for step in (0, 10**6):
        times = [first_batch(work / "store", step) for _ in range(5)]
        figures[f"open_and_batch_{step}_seconds"] = times[0]
        figures[f"open_and_batch_{step}_again_seconds"] = min(times[1:])
    return figures


def first_batch(store: Path, step: int) -> float:
    """Seconds from opening a store to having the batch of a step."""
    start = time.perf_counter()
    split = Store.open(store, verify="size").split("train")
    Batches(split, batch_size=64, seed=1).at(step)
    return time.perf_counter() - start


def kill(work: Path, words: int, options: argparse.Namespace) -> Figures:
    """Kill `prepare` at random moments of the time that it takes, then run it to the end."""
    expected = _digest(work / "store")
    seconds = json.loads((work / "prepare.json").read_text())["seconds"]
    out = work / "killed"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(work / ".killed.work", ignore_errors=True)
    draw = random.Random(0)
    kills = ended = 0
    while kills < options.kills:
        process = subprocess.Popen(
            _prepare(work, out, options.processes), stdout=subprocess.DEVNULL
        )
        # Most kills are early in what is left, so that there are as many as asked for.
        try:
            process.wait(draw.uniform(0, seconds / 3))
            ended += 1
            assert process.returncode == 0 and _digest(out) == expected
            shutil.rmtree(out)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            assert not out.exists() or (out / INDEX).is_file()
    if not out.exists():
        _said(_prepare(work, out, options.processes))
    same = _digest(out) == expected
    shutil.rmtree(out)
    return {"kills": kills, "ended_between": ended, "identical": same}


def damage(work: Path, words: int, options: argparse.Namespace) -> Figures:
    """Change a byte at random places, one after the other."""
    store = Store.open(work / "store", verify="size")
    shards = [shard for split in store.info.splits.values() for shard in split.shards]
    draw = random.Random(0)
    by_verify = by_reading = 0
    for _ in range(options.damages):
        shard = draw.choices(shards, [one.bytes for one in shards])[0]
        path, place = Path(store.path) / shard.file, draw.randrange(shard.bytes)
        with path.open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ (1 << draw.randrange(8))]))
            file.flush()
        try:
            by_verify += _raises(store.verify)
            by_reading += _raises(partial(_read_all, store, shard))
        finally:
            with path.open("r+b") as file:
                file.seek(place)
                file.write(bytes([byte]))
    store.verify()
    return {
        "damages": options.damages,
        "found_by_verify": by_verify,
        "found_by_reading": by_reading,
    }


def train(work: Path, words: int, options: argparse.Namespace) -> Figures:
    """Train a preset for some steps."""
    out = work / "run"
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    _said(
        [*LVTRAIN, "train", "arae", "--preset", options.preset, "--data", str(work / "store"),
         "--out", str(out), "--steps", str(options.train_steps), "--validate-every", "0",
         "--log-every", "10"]
    )  # fmt: skip
    seconds = time.perf_counter() - start
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [line["words_per_second"] for line in lines if "words_per_second" in line]
    shutil.rmtree(out)
    return {
        "steps": options.train_steps,
        "preset": options.preset,
        "seconds": seconds,
        "words_per_second": float(np.median(rates[len(rates) // 4 :])),
    }


class Memory:
    """The most memory that a process and its children have together, each shared page once."""

    def __init__(self, pid: int, every: float = 0.2) -> None:
        self.peak = 0
        self._pid, self._every = pid, every
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(self._every):
            self.peak = max(self.peak, sum(map(_proportional, _family(self._pid))))


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += (thread / "children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in set(children) for one in _family(int(child)))]


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _wait(process: subprocess.Popen[Any]) -> resource.struct_rusage:
    """Wait for a process to succeed; gives what it and those that it waited for used."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    _check_done(process.args, process.returncode)
    return used


def _check_done(command: Any, status: int) -> None:
    """Raise UserError for a process that failed: what of, it has said itself."""
    if status:
        raise UserError(f"{' '.join(command[1:4])} … ended with status {status}")


def _said(command: list[str]) -> bytes:
    """What a process that succeeds writes on standard output."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    _check_done(command, done.returncode)
    return done.stdout


def _prepare(work: Path, out: Path, processes: int) -> list[str]:
    files = map(str, sorted((work / "text").iterdir()))
    return [*LVTRAIN, "prepare", *files, "--out", str(out), "--processes", str(processes), "--json"]


def _digest(store: Path) -> str:
    """SHA-256 of every file and its name."""
    whole = hashlib.sha256()
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(store)}\n".encode())
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _raises(function: Callable[[], None]) -> bool:
    try:
        function()
    except UserError:
        return True
    return False


def _read_all(store: Store, shard: ShardInfo) -> None:
    """Read every row of the length of a shard, from a store that was opened just now."""
    split = Store.open(store.path, verify="size").split(shard.file.split("/")[0])
    for length, first, rows in split.buckets:
        if length == shard.length:
            for start in range(first, first + rows, 1 << 18):
                split.gather(np.arange(start, min(start + (1 << 18), first + rows)))


def check(options: argparse.Namespace) -> None:
    """Raise UserError for a number that cannot be."""
    if not (options.words >= 1 and options.words.is_integer()):
        raise UserError(f"--words: expected a whole number, 1 or more, found {options.words:g}")
    if not options.seconds > 0:
        raise UserError(f"--seconds: expected more than 0, found {options.seconds:g}")
    for name, least in (("processes", 1), ("kills", 0), ("damages", 0), ("train_steps", 0)):
        if (found := getattr(options, name)) < least:
            raise UserError(f"--{name.replace('_', '-')}: expected {least} or more, found {found}")


def check_made(work: Path, stage: str) -> None:
    """Raise UserError for a stage without what those before it make."""
    wants = {"generate": (), "prepare": ("text",), "peers": ("text",)}
    wants |= {"kill": ("text", "store", "prepare.json")}
    for name in wants.get(stage, ("store",)):
        if not (work / name).exists():
            earlier = {"text": "generate"}.get(name, "prepare")
            raise UserError(f"{stage}: no {work / name}: expected the stage {earlier} before it")


def main() -> int:
    """Run the stages that have no figures yet, then print all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--words", type=float, default=1e6)
    parser.add_argument("--work", type=Path, required=True, help="a folder, kept between calls")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--seconds", type=float, default=10.0, help="of each reading")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--damages", type=int, default=100)
    parser.add_argument("--train-steps", type=int, default=0)
    parser.add_argument("--preset", default="arae-1b")
    parser.add_argument("--peers", type=Path, help="a Python that has `datasets` and `tokenizers`")
    parser.add_argument("--json", action="store_true", help="one JSON object, when all is done")
    options = parser.parse_args()
    check(options)
    work = options.work / f"{int(options.words)}"
    work.mkdir(parents=True, exist_ok=True)
    idle = {"peers"} if options.peers is None else set()
    idle |= set() if options.train_steps else {"train"}
    found: dict[str, Figures] = {}
    for stage in options.stages:
        path = work / f"{stage}.json"
        if not path.exists() and stage not in idle:
            check_made(work, stage)
            figures = globals()[stage](work, int(options.words), options)
            whence = provenance("benchmarks.corpus")
            path.write_text(json.dumps({**whence, **figures}, indent=1))
        if path.exists():
            found[stage] = json.loads(path.read_text())
            if not options.json:
                rows = [f"  {name:32}{value}" for name, value in found[stage].items()]
                print("\n".join([stage, *rows]), flush=True)
    if options.json:
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
