"""Imports run one way, and light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each layer may import itself and what stands before it.
LAYERS = [
    ["lvtrain.errors"],
    ["lvtrain.config"],
    ["lvtrain.kernels"],
    ["lvtrain.randomness"],
    ["lvtrain.grammar"],
    ["lvtrain.data"],
    ["lvtrain.text"],
    ["lvtrain.prepare"],
    ["lvtrain.modules"],
    ["lvtrain.objectives"],
    ["lvtrain.training"],
    ["lvtrain.systems"],
    ["lvtrain.presets"],
    ["lvtrain.generation"],
    ["lvtrain.model"],
    ["lvtrain.begin"],
    ["lvtrain.evaluation"],
    ["lvtrain.report"],
    ["lvtrain.experiment"],
    ["lvtrain.commands"],
    ["lvtrain.cli"],
    ["lvtrain.cluster"],
]
LINKED = ("kernels", "cluster")
ONLY = {"triton": "lvtrain.kernels", "ray": "lvtrain.cluster", "deepspeed": "lvtrain.cluster"}


def sources() -> list[tuple[str, Path]]:
    found = []
    folders = [(ROOT / "lvtrain").rglob("*.py"), *((ROOT / n).glob("*.py") for n in LINKED)]
    for path in (path for found in folders for path in sorted(found)):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(("lvtrain", *parts) if parts[0] in LINKED else parts)
        found.append((name.removesuffix(".__init__"), path))
    return found


def imported(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package if node.level == 1 else ""
            yield ".".join(filter(None, (base, node.module)))


def layer(name: str) -> int | None:
    for i, prefixes in enumerate(LAYERS):
        if any(name == p or name.startswith(f"{p}.") for p in prefixes):
            return i
    return None


@pytest.mark.parametrize(("name", "path"), sources(), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_run_one_way(name: str, path: Path) -> None:
    own = layer(name)
    for target in imported(name, path):
        top = target.partition(".")[0]
        assert top not in ("kernels", "cluster"), f"{name} imports {top}, another package's name"
        if top in ONLY:
            assert name.startswith(ONLY[top]), f"{name} imports {top}"
        # `import lvtrain` and `python -m lvtrain` are doors, open to every layer behind them.
        if own is not None and (theirs := layer(target)) is not None:
            assert theirs <= own, f"{name} imports {target}, which stands above it"


@pytest.mark.parametrize("module", ["lvtrain", "lvtrain.cli", "lvtrain.grammar.grammar",
                                    "lvtrain.data.store", "lvtrain.commands.prepare"])  # fmt: skip
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_module_belongs_to_a_layer() -> None:
    doors = {"lvtrain", "lvtrain.__main__"}
    assert [n for n, _ in sources() if layer(n) is None and n not in doors] == []


def test_a_folder_of_its_name_where_one_works_does_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / "lvtrain").mkdir()  # such as a clone, whose parent folder one works in
    code = "import lvtrain; lvtrain.load"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
