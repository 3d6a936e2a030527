"""Checksums of a file's blocks, so that what is read of it can be verified without the rest."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Final
from zlib import crc32

import numpy as np

BLOCK_BYTES: Final = 1 << 16
_DTYPE: Final = np.dtype("<u4")


def digests(path: Path) -> tuple[str, str]:
    """Return the SHA-256 of a file, in hexadecimal, and the CRC-32 of each of its blocks, as
    `decode` reads them."""
    whole = hashlib.sha256()
    blocks = []
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            whole.update(block)
            blocks.append(crc32(block))
    return whole.hexdigest(), base64.b64encode(np.array(blocks, _DTYPE).tobytes()).decode()


def decode(text: str) -> np.ndarray:
    """Return the CRC-32 of each block: `[blocks]` uint32. Raises ValueError for other text."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=_DTYPE)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
