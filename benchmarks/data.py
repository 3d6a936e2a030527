"""Reading a store: tokens a second on one core, and resident memory against the size of the store.

python -m benchmarks.data --json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.provenance import provenance
from lvtrain.cli import guarded
from lvtrain.data.checksums import sha256
from lvtrain.data.info import INDEX, TOKENIZER, VERSION, SplitInfo, StoreInfo
from lvtrain.data.layout import Layout, smallest_dtype
from lvtrain.data.shards import ShardWriter
from lvtrain.data.tokenizer import SPECIALS, Tokenizer

if TYPE_CHECKING:
    from lvtrain.data.batches import Batches
    from lvtrain.data.store import Split

VOCABULARY = 30_000
MEAN_WORDS = 11
SHORTEST, LONGEST = 3, 19
BLOCK = 1 << 16
ORDERS: Final[dict[str, dict[str, Any]]] = {
    "mixed": {},
    "by_length": {"by_length": True},
    "locality": {"by_length": True, "locality": True},
}
"""How batches may be made: settings of `Batches`."""


def build(folder: Path, sentences: int) -> None:
    """Write a store of random sentences of 3 to 19 words through the writer that `prepare` uses."""
    counts = {f"w{i}": 1 for i in range(VOCABULARY)}
    tokenizer = Tokenizer.words_from_counts(counts)
    folder.mkdir()
    tokenizer.save(folder / TOKENIZER)
    layout = Layout(tokens=smallest_dtype(tokenizer.vocab_size))
    writer = ShardWriter(folder, "train", layout)
    generator = np.random.default_rng(0)
    histogram = np.zeros(LONGEST + 1, dtype=np.int64)
    for start in range(0, sentences, BLOCK):
        lengths = generator.integers(SHORTEST, LONGEST + 1, min(BLOCK, sentences - start))
        ids = generator.integers(len(SPECIALS), tokenizer.vocab_size, lengths.sum())
        writer.add(ids, lengths)
        histogram += np.bincount(lengths, minlength=LONGEST + 1)
    words = int((histogram * np.arange(LONGEST + 1)).sum())
    split = SplitInfo(
        sentences=sentences,
        words=words,
        tokens=words + sentences,
        unknown=0,
        dropped={},
        lengths={i: n for i, n in enumerate(histogram.tolist()) if n},
        target_tokens=0,
        target_unknown=0,
        shards=tuple(writer.finish()),
    )
    info = StoreInfo(
        version=VERSION,
        vocab_size=tokenizer.vocab_size,
        target_vocab_size=None,
        labels=None,
        splits={"train": split},
        frequent=(),
        tokenizers={TOKENIZER: sha256(folder / TOKENIZER)},
        sources=(),
        settings={},
    )
    (folder / INDEX).write_text(info.to_json(), encoding="utf-8")


def measure(folder: Path, seconds: float, batch_size: int, order: str) -> dict[str, Any]:
    """Read batches for a while; run in a process of its own for its memory to mean something."""
    import torch

    from lvtrain.data.batches import Batches
    from lvtrain.data.store import Store

    torch.set_num_threads(1)
    before = memory()
    start = time.perf_counter()
    split = Store.open(folder, verify="size").split("train")
    batches = Batches(split, batch_size=batch_size, seed=1, **ORDERS[order])
    batches.at(0)
    first = time.perf_counter() - start
    start, cpu = time.perf_counter(), time.process_time()
    index, words, padded, peak = 1, 0, 0, before
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(100):
            batch = batches.at(index)
            words += int(batch.lengths.sum())
            padded += batch.tokens.numel()
            index += 1
        now = memory()
        peak = {name: max(peak[name], now[name]) for name in now}
    busy = time.process_time() - cpu
    return {
        "sentences": split.rows,
        "store_bytes": sum(shard.bytes for shard in split.info.shards),
        "batch_size": batch_size,
        "order": order,
        "of_8_ranks": of_ranks(split, batches, 8),
        "tokens_per_second": round(words / busy),
        "tokens_per_second_elapsed": round(words / elapsed),
        "batches": index,
        "padding": round(1 - words / padded, 4),
        "first_batch_seconds": round(first, 4),
        "memory_growth_bytes": {name: now[name] - before[name] for name in now},
        "memory_growth_peak_bytes": {name: peak[name] - before[name] for name in peak},
        "memory_total_bytes": now,
    }


def of_ranks(split: Split, batches: Batches, world: int) -> float:
    """Return the share of the store's bytes that a rank of so many reads in 20,000 batches: the
    shards that it opens, on average."""
    shards = split.info.shards
    size = np.array([shard.bytes for shard in shards])
    stops = np.cumsum([shard.rows for shard in shards])
    shard = np.searchsorted(stops, batches.global_rows(0, 20_000), side="right")
    opened = [size[np.unique(shard[:, rank::world])].sum() for rank in range(world)]
    return round(float(np.mean(opened) / size.sum()), 3)


def memory() -> dict[str, int]:
    """Return the resident bytes of this process: all, anonymous, and mapped from files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"resident": "VmRSS", "anonymous": "RssAnon", "mapped": "RssFile", "highest": "VmHWM"}
    return {name: int(fields[field].split()[0]) * 1024 for name, field in names.items()}


def main() -> None:
    """Build the stores, read each in a process of its own, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, nargs="+", default=[10**5, 10**7])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--order", choices=ORDERS, default="mixed", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.store:
        figures = measure(arguments.store, arguments.seconds, arguments.batch_size, arguments.order)
        print(json.dumps(figures))
        return
    origin = provenance("benchmarks.data")
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for sentences in arguments.sentences:
            folder = Path(temporary) / f"store-{sentences}"
            build(folder, sentences)
            for order in ORDERS:
                command = [sys.executable, "-m", "benchmarks.data", "--store", str(folder)]
                command += ["--order", order, "--seconds", str(arguments.seconds)]
                command += ["--batch-size", str(arguments.batch_size)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                results.append(json.loads(done.stdout))
    figures = {
        "tokens_per_second": min(result["tokens_per_second"] for result in results),
        **origin,
        "results": results,
    }
    if arguments.json:
        print(json.dumps(figures, indent=1))
        return
    for result in results:
        grown = result["memory_growth_bytes"]
        print(
            f"{result['sentences']:>12,} sentences  "
            f"{result['order']:<9}  "
            f"{result['tokens_per_second'] / 1e6:6.1f}M tokens/s  "
            f"padding {100 * result['padding']:4.1f} %  "
            f"first batch {1000 * result['first_batch_seconds']:6.1f} ms  "
            f"resident +{grown['resident'] / 2**20:.0f} MiB "
            f"(anonymous +{grown['anonymous'] / 2**20:.0f}, mapped +{grown['mapped'] / 2**20:.0f})"
        )


if __name__ == "__main__":
    sys.exit(guarded(main))
