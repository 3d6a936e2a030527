"""Others who turn text into integers on a disk, timed on the same files.

python -m benchmarks.corpus_peers OUT FILE… --processes 2

Runs in an environment that need not have lvtrain. Each makes a word-level vocabulary by one pass
and encodes by another, as `lvtrain prepare` does.

    datasets     Hugging Face datasets: load_dataset("text"), counting of words over its batches,
                 a word-level model of `tokenizers`, map(batched=True, num_proc=…), which writes
                 Arrow files
    binarise     what fairseq's and Megatron's preprocessing do, without their frameworks: counters
                 of str.split in processes, each of a range of the file; then ids line by line into
                 one binary file with an index of offsets, two bytes a token
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]


def with_datasets(out: Path, files: list[str], processes: int) -> None:
    import datasets
    import tokenizers

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    text = datasets.load_dataset(
        "text", data_files=files, split="train", cache_dir=str(out / "cache"), num_proc=processes
    )
    counted = text.map(
        _count_batch, batched=True, batch_size=10_000, num_proc=processes, remove_columns=["text"]
    )
    counts: Counter[str] = Counter()
    for batch in counted.iter(1000):
        for word, count in zip(batch["word"], batch["count"], strict=True):
            counts[word] += count
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *_ordered(counts)])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    encoded = text.map(
        lambda batch: {"ids": [one.ids for one in model.encode_batch_fast(batch["text"])]},
        batched=True, batch_size=1000, num_proc=processes, remove_columns=["text"],
        features=datasets.Features({"ids": datasets.List(datasets.Value("uint16"))}),
    )  # fmt: skip
    encoded.save_to_disk(str(out / "datasets"), num_proc=processes)


def _count_batch(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    counts: Counter[str] = Counter()
    for line in batch["text"]:
        counts.update(line.split())
    return {"word": list(counts), "count": list(counts.values())}


def binarise(out: Path, files: list[str], processes: int) -> None:
    ranges = [(file, i, processes) for file in files for i in range(processes)]
    with ProcessPoolExecutor(processes) as pool:
        counts: Counter[str] = sum(pool.map(_count_range, ranges), Counter())
        vocabulary = {word: i for i, word in enumerate([*SPECIALS, *_ordered(counts)])}
        (out / "dict.txt").write_text("".join(f"{word}\n" for word in vocabulary))
        jobs = [(one, vocabulary, out / f"binarise-{i}") for i, one in enumerate(ranges)]
        list(pool.map(_binarise_range, jobs))


def _lines(one: tuple[str, int, int]) -> Any:
    file, piece, pieces = one
    size = Path(file).stat().st_size
    with open(file, "rb") as source:  # noqa: PTH123
        begin, end = size * piece // pieces, size * (piece + 1) // pieces
        if begin:
            source.seek(begin - 1)
            source.readline()
        while source.tell() < end and (line := source.readline()):
            yield line.decode()


def _count_range(one: tuple[str, int, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in _lines(one):
        counts.update(line.split())
    return counts


def _binarise_range(job: tuple[tuple[str, int, int], dict[str, int], Path]) -> None:
    one, vocabulary, path = job
    unknown, sizes = vocabulary["<unk>"], []
    with path.with_suffix(".bin").open("wb") as file:
        for line in _lines(one):
            ids = [vocabulary.get(word, unknown) for word in line.split()]
            ids.append(2)
            file.write(np.array(ids, dtype=np.uint16).tobytes())
            sizes.append(len(ids))
    np.save(path.with_suffix(".idx.npy"), np.cumsum(sizes))


def _ordered(counts: Counter[str]) -> list[str]:
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def main() -> None:
    """Time each in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    figures = {}
    for name, contestant in (("datasets", with_datasets), ("binarise", binarise)):
        start, before = time.perf_counter(), sum(os.times()[:4])
        try:
            contestant(options.out, options.files, options.processes)
        except ImportError:
            continue
        figures[f"{name}_seconds"] = time.perf_counter() - start
        figures[f"{name}_core_seconds"] = sum(os.times()[:4]) - before
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
