"""Rows between groups of any two sizes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.cluster.exchange import meets, merge, pack, rows_for, split, unpack

sizes = st.integers(1, 6)


@given(sizes, sizes, st.integers(1, 3))
def test_every_row_arrives_where_it_belongs_and_in_order(n: int, m: int, times: int) -> None:
    rows = torch.arange(n * m * times)
    batch = {"codes": torch.stack([rows, -rows], dim=1), "labels": rows}
    sent = [split({k: v[r::n] for k, v in batch.items()}, r, n, m) for r in range(n)]
    for rank in range(m):
        pieces = []
        for sender in range(n):
            if meets(sender, n, rank, m):
                met = [other for other in range(m) if meets(sender, n, other, m)]
                pieces.append(sent[sender][met.index(rank)])
        merged = merge(pieces, rank, m, n)
        for name, tensor in batch.items():
            assert torch.equal(merged[name], tensor[rank::m])


@given(sizes, sizes)
def test_ranks_meet_where_they_share_a_row(n: int, m: int) -> None:
    for rank in range(n):
        for other in range(m):
            shared = len(rows_for(m, rank, n, other, m)) > 0
            assert meets(rank, n, other, m) == shared


def test_packing_keeps_every_bit() -> None:
    tensors = {
        "codes": torch.randn(3, 4),
        "half": torch.randn(3, 4).bfloat16(),
        "labels": torch.arange(3),
        "strided": torch.randn(4, 3).T,
    }
    unpacked = unpack(pack(tensors))
    assert unpacked.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert unpacked[name].dtype == tensor.dtype
        assert torch.equal(unpacked[name], tensor)
        # The product of matrices rounds otherwise where they do not lie as torch lays them.
        assert unpacked[name].data_ptr() % 64 == 0
