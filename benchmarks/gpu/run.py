"""Runs the sections of the GPU benchmark, each in a process of its own, and keeps what they give.

A kernel that reads where it may not takes its process with it, and a barrier that never opens keeps
it for ever. So this process touches no kernel: it starts a section, collects its rows as they come,
and where a section dies or runs over its time it goes on with the next case. Before the first, many
processes compile at once what the sections will need, into Triton's and PyTorch's caches on disk.
"""

from __future__ import annotations

import gc
import importlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Case, Row
from benchmarks.gpu.timing import one_line

SECTIONS = {
    "stress": 100,
    "ceilings": 20,
    "lstm": 190,
    "double_backward": 35,
    "reparameterize": 30,
    "gradient_penalty": 35,
    "cross_entropy": 50,
}
"""Modules of this folder in the order in which they run, and each one's share of the time."""

COMPILE_SHARE = 0.2
GRACE = 20.0
"""Seconds over its time after which a section is stopped rather than asked to stop."""

Keep = Callable[[Row], None]


def run(bench: Bench, sections: Iterable[str], keep: Keep, jobs: int) -> None:
    """Run ``sections`` until ``bench.deadline``, giving each row to ``keep``."""
    names = [name for name in SECTIONS if name in sections]
    if bench.size == "toy":
        for name in names:
            bench = _with_ceilings(bench, _keeping(here(name, bench), keep))
        return
    limit = time.time() + COMPILE_SHARE * (bench.deadline - time.time())
    _keeping(compile_first(replace(bench, deadline=limit), names, jobs), keep)
    for number, name in enumerate(names):
        share = SECTIONS[name] / sum(SECTIONS[later] for later in names[number:])
        limit = time.time() + share * (bench.deadline - time.time())
        rows = _keeping(apart(name, replace(bench, deadline=limit)), keep)
        bench = _with_ceilings(bench, rows)


def _keeping(rows: Iterable[Row], keep: Keep) -> list[Row]:
    kept = []
    for row in rows:
        keep(row)
        kept.append(row)
    return kept


def _with_ceilings(bench: Bench, rows: list[Row]) -> Bench:
    found = {row["of"]: row["rate"] for row in rows if "rate" in row}
    return replace(bench, ceilings=bench.ceilings | found)


def cases_of(section: str, bench: Bench) -> list[Case]:
    module = section if "." in section else f"benchmarks.gpu.{section}"
    return importlib.import_module(module).cases(bench)


def here(section: str, bench: Bench) -> Iterator[Row]:
    """The rows of a section, made in this process."""
    for case in cases_of(section, bench):
        for row in case.rows(bench):
            yield {"section": section, **row}


def apart(section: str, bench: Bench) -> Iterator[Row]:
    """The rows of a section, made in processes of their own: one, as long as all goes well."""
    first = 0
    while True:
        connection, process = _start(_serve, section, bench, first)
        case = ""
        try:
            while True:
                seconds = bench.deadline + GRACE - time.time()
                if not connection.poll(max(0.0, seconds)):
                    process.kill()
                    yield {"section": section, "op": case, "note": "stopped: over its time"}
                    return
                kind, content = connection.recv()
                if kind == "case":
                    first, case = content
                elif kind == "row":
                    yield {"section": section, **content}
                elif kind == "skipped":
                    note = f"no time left for {content} more cases"
                    yield {"section": section, "op": section, "note": note}
                elif kind == "done":
                    return
                else:  # the device is lost to that process
                    break
        except EOFError:
            process.join()
            note = f"process ended with {process.exitcode}"
            yield {"section": section, "op": case or section, "note": note}
            if not case:  # it died before its first case, and would again
                return
        finally:
            connection.close()
            process.join(timeout=GRACE)
            if process.is_alive():
                process.kill()
        first += 1


def _start(target: Callable[..., None], *arguments: object) -> tuple[Connection, Any]:
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _serve(connection: Connection, section: str, bench: Bench, first: int) -> None:
    """Send the rows of a section's cases from ``first`` on."""
    cases = cases_of(section, bench)
    gc.freeze()  # a capture collects garbage; what is imported is none
    for number, case in enumerate(cases):
        if number < first:
            continue
        if bench.over():
            connection.send(("skipped", len(cases) - number))
            break
        connection.send(("case", (number, case.label)))
        try:
            for row in case.rows(bench):
                connection.send(("row", row))
        except Exception as error:  # whatever it is, the next case is still to be run
            connection.send(("row", {"op": case.label, "note": one_line(error)}))
        if not _device_is_well(bench):
            connection.send(("lost", None))
            return
    connection.send(("done", None))


def _device_is_well(bench: Bench) -> bool:
    if bench.device != "cuda":
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def compile_first(bench: Bench, sections: list[str], jobs: int) -> Iterator[Row]:
    """Compile what the sections need in ``jobs`` processes; gives what went wrong and the time."""
    began = time.time()
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # there are processes enough
    started = [_start(_compile, sections, bench, job, jobs) for job in range(jobs)]
    open_ = dict(started)
    compiled = 0
    while open_:
        seconds = bench.deadline + GRACE - time.time()
        ready = wait(list(open_), timeout=max(0.0, seconds))
        if not ready:
            yield {"section": "compile", "op": "compile", "note": "stopped: over its time"}
            break
        for connection in ready:
            assert isinstance(connection, Connection)
            try:
                label, problem = connection.recv()
            except EOFError:
                process = open_.pop(connection)
                process.join()
                if process.exitcode:
                    note = f"a compiling process ended with {process.exitcode}"
                    yield {"section": "compile", "op": "compile", "note": note}
                continue
            compiled += 1
            if problem:
                yield {"section": "compile", "op": label, "note": problem}
    for _, process in started:
        process.kill()
        process.join()
    took = round(time.time() - began, 1)
    yield {"section": "compile", "op": "compile", "cases": compiled, "seconds": took}


def _compile(
    connection: Connection, sections: list[str], bench: Bench, job: int, jobs: int
) -> None:
    """Do every case once whose kernels none before it has; these are dealt to the jobs in turn."""
    keyed: dict[object, Case] = {}
    for section in sections:
        for case in cases_of(section, bench):
            key = case.kernels()
            if key is not None:
                keyed.setdefault(key, case)
    # The last sections have what PyTorch compiles, which takes longest: it is begun first.
    for case in list(reversed(keyed.values()))[job::jobs]:
        if bench.over():
            break
        problem = ""
        try:
            case.warm(bench)
            if bench.device == "cuda":
                torch.cuda.synchronize()
        except Exception as error:  # whatever it is, the case itself will tell again
            problem = one_line(error)
        connection.send((case.label, problem))
