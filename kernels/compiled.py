"""What each Triton kernel takes of a chip, compiled without one: registers, shared memory, stack.

`python -m lvtrain.kernels.compiled` compiles the ``variants()`` of every ``*_triton.py`` for every
target and prints a table; ``--write`` keeps it as ``compiled.json``, ``--check`` compares with that
and exits with 1 where a kernel got worse. Neither needs a GPU; both need Triton's compiler, so not
its interpreter (``TRITON_INTERPRET``).
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

TARGETS = {
    "sm_80": ("cuda", 80, 32, 163 * 1024),
    "sm_90": ("cuda", 90, 32, 227 * 1024),
    "sm_100": ("cuda", 100, 32, 227 * 1024),
    "gfx942": ("hip", "gfx942", 64, 64 * 1024),
}
"""Backend, architecture, threads to a warp and most bytes of shared memory to a block."""

RECORD = Path(__file__).with_name("compiled.json")


class Variant(NamedTuple):
    """A kernel and what it is compiled with.

    ``name`` is unique among all, ``<op>/<kernel> <what distinguishes it>``. ``signature`` gives the
    type of each argument that is not in ``constexprs``: ``"*bf16"``, ``"i32"``, ``"fp32"``, and
    ``"i32:16"`` for an integer that is a multiple of 16. Pointers are taken as aligned to 16 bytes,
    as PyTorch allocates them. An integer that is 1 belongs in ``constexprs``, as at a launch.
    ``targets`` are those it is meant for.
    """

    name: str
    kernel: Any  # a triton.JITFunction
    signature: dict[str, str]
    constexprs: dict[str, object]
    num_warps: int
    num_stages: int
    targets: tuple[str, ...] = tuple(TARGETS)


class Resources(NamedTuple):
    """What a compiled kernel takes: registers a thread, and bytes or counts that should be few.

    A register spilled on an NVIDIA chip shows as stack; ``spills`` are its other local memory, and
    the vector registers spilled on an AMD chip; scalar ones go to lanes of those, not to memory.
    """

    registers: int
    shared_bytes: int
    stack_bytes: int
    spills: int


Rows = dict[tuple[str, str], Resources]
"""Resources by name of variant and target."""


def compile_variant(variant: Variant, target: str) -> Resources:
    """Compile ``variant`` for ``target`` and read what it takes.

    Raises:
        ValueError: an unknown target, arguments that are not the kernel's, or a kernel made for
            the interpreter.
    """
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    if target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, found {target!r}")
    kernel = variant.kernel
    if not isinstance(kernel, JITFunction):
        raise ValueError(
            f"{variant.name}: expected a compilable kernel, found {type(kernel).__name__} "
            "(TRITON_INTERPRET must not be set)"
        )
    given = {**variant.signature, **dict.fromkeys(variant.constexprs, "constexpr")}
    if given.keys() != set(kernel.arg_names):
        wrong = ", ".join(sorted(given.keys() ^ set(kernel.arg_names)))
        raise ValueError(f"{variant.name}: arguments missing or not the kernel's: {wrong}")
    types = {name: given[name].partition(":")[0] for name in kernel.arg_names}
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (i,): aligned
        for i, name in enumerate(kernel.arg_names)
        if given[name].startswith("*") or given[name].endswith(":16")
    }
    backend, architecture, warp, _ = TARGETS[target]
    built = triton_compile(
        ASTSource(kernel, types, constexprs=variant.constexprs, attrs=attributes),
        target=GPUTarget(backend, architecture, warp),
        options={"num_warps": variant.num_warps, "num_stages": variant.num_stages},
    )
    if backend == "cuda":
        return _of_cubin(built.asm["cubin"], built.metadata.shared)
    return _of_amdgcn(built.asm["amdgcn"], built.metadata.shared)


def _of_cubin(cubin: bytes, shared: int) -> Resources:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {key: int(value) for key, value in re.findall(r"\b([A-Z]+):(\d+)", text)}
    # Triton allocates shared memory at launch; SHARED is what CUDA keeps, outside the limit.
    return Resources(found["REG"], shared, found["STACK"], found["LOCAL"])


def _of_amdgcn(text: str, shared: int) -> Resources:
    found = {key: int(value) for key, value in re.findall(r"^\s+\.(\w+):\s+(\d+)$", text, re.M)}
    return Resources(
        found["vgpr_count"],  # accumulation registers included
        max(shared, found["group_segment_fixed_size"]),
        found["private_segment_fixed_size"],
        found["vgpr_spill_count"],
    )


def collect(only: str = "") -> list[Variant]:
    """Give the variants that the ``*_triton.py`` beside this file list, named with ``only``."""
    variants: list[Variant] = []
    for path in sorted(Path(__file__).parent.glob("*_triton.py")):
        module = importlib.import_module(f"lvtrain.kernels.{path.stem}")
        variants += module.variants() if hasattr(module, "variants") else []
    names = [v.name for v in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"variants: expected names that differ, found twice {', '.join(twice)}")
    return [v for v in variants if only in v.name]


def beyond_limits(rows: Rows) -> list[str]:
    """Say where a kernel uses stack, spills, or asks for more shared memory than the chip has."""
    wrong = []
    for (name, target), r in rows.items():
        if r.stack_bytes or r.spills:
            wrong.append(f"{name} on {target}: {r.stack_bytes} bytes of stack, {r.spills} spills")
        limit = TARGETS[target][3]
        if r.shared_bytes > limit:
            wrong.append(f"{name} on {target}: {r.shared_bytes} bytes shared, the chip has {limit}")
    return wrong


def regressions(rows: Rows, recorded: Rows) -> list[str]:
    """Say where ``rows`` lack a variant of ``recorded``, have one more, or need more than it."""
    wrong = [f"{name} on {target}: no longer compiled" for name, target in recorded.keys() - rows]
    for key, r in rows.items():
        name, target = key
        if key not in recorded:
            wrong.append(f"{name} on {target}: not recorded")
            continue
        for what in ("registers", "shared_bytes"):
            now, before = getattr(r, what), getattr(recorded[key], what)
            if now > before:
                wrong.append(f"{name} on {target}: {now} {what}, recorded {before}")
    return wrong


def write(rows: Rows, version: str, path: Path = RECORD) -> None:
    """Write the table, a row a line, and the version of Triton that made it."""
    lines = (
        json.dumps({"variant": name, "target": target, **resources._asdict()}, ensure_ascii=False)
        for (name, target), resources in sorted(rows.items())
    )
    table = ",\n  ".join(lines)
    path.write_text(f'{{"triton": "{version}", "rows": [\n  {table}\n]}}\n', encoding="utf-8")


def read(path: Path = RECORD) -> tuple[Rows, str]:
    """Read what ``write`` wrote."""
    table = json.loads(path.read_text(encoding="utf-8"))
    rows = {(row.pop("variant"), row.pop("target")): Resources(**row) for row in table["rows"]}
    return rows, table["triton"]


def check(rows: Rows, version: str, path: Path = RECORD) -> list[str]:
    """Say what is wrong with ``rows``, made by Triton ``version``, against the record at ``path``.

    Another version of Triton allocates registers otherwise: then only the limits and the list of
    variants are held.
    """
    recorded, recorded_version = read(path)
    if version != recorded_version:
        recorded = {key: rows.get(key, resources) for key, resources in recorded.items()}
    return beyond_limits(rows) + regressions(rows, recorded)


def _show(rows: Rows, names: Iterable[str]) -> None:
    width = max((len(name) for name in names), default=0)
    print(f"{'variant':{width}}  target  registers  shared  stack  spills")
    for (name, target), r in rows.items():
        print(
            f"{name:{width}}  {target:6}  {r.registers:9}  {r.shared_bytes:6}  {r.stack_bytes:5}"
            f"  {r.spills:6}"
        )


def main() -> int:
    import triton

    parser = argparse.ArgumentParser(prog="python -m lvtrain.kernels.compiled", description=__doc__)
    parser.add_argument("--only", default="", help="variants whose name contains this")
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--write", action="store_true", help=f"write {RECORD.name}")
    does.add_argument("--check", action="store_true", help=f"compare with {RECORD.name}")
    given = parser.parse_args()
    if given.only and (given.write or given.check):
        parser.error("--only: the record is of all variants, not of some")

    try:
        variants = collect(given.only)
        rows = {
            (v.name, target): compile_variant(v, target) for v in variants for target in v.targets
        }
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    _show(rows, [v.name for v in variants])
    wrong = check(rows, triton.__version__) if given.check else beyond_limits(rows)
    for line in wrong:
        print(line, file=sys.stderr)
    if given.write and not wrong:
        write(rows, triton.__version__)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
