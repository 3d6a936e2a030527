"""Arrow's arrays as numpy's and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data.arrow import from_numpy, from_texts, to_numpy
from lvtrain.grammar.grammar import Grammar


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "int64"])
def test_numbers_come_back(dtype: str) -> None:
    numbers = np.arange(10, dtype=dtype)
    array = from_numpy(numbers)
    assert array.equals(pa.array(numbers))
    for part in (array, array[3:7], array[10:]):
        found = to_numpy(part)
        assert found.dtype == dtype
        assert found.tolist() == part.to_pylist()
    assert to_numpy(pa.array([], pa.type_for_alias(dtype))).tolist() == []
    assert from_numpy(numbers[::3]).to_pylist() == [0, 3, 6, 9]


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=4), max_size=5))
def test_texts_are_what_arrow_makes_of_them(texts: list[str]) -> None:
    assert from_texts(texts).equals(pa.array(texts, pa.large_string()))


_CODE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise SystemExit("pandas is imported")
sys.meta_path.insert(0, Refused())
from lvtrain.prepare.prepare import PrepareConfig, prepare
from lvtrain.prepare.workers import Here
from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
text, labels, out = sys.argv[1:]
prepare(PrepareConfig(files=(text,), labels=(labels,), target=(text,)), out, workers=Here())
assert Batches(Store.open(out).split("train"), batch_size=4, seed=0).at(0).targets is not None
"""


def test_preparing_and_reading_a_store_import_no_pandas(tmp_path: Path) -> None:
    lines = Grammar().sample(200, 0)
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "labels").write_text("".join(f"{len(line) % 2}\n" for line in lines))
    arguments = [str(tmp_path / name) for name in ("text", "labels", "store")]
    subprocess.run([sys.executable, "-c", _CODE, *arguments], check=True)
