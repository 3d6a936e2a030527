"""What a translator does beside an adversary, whichever that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lvtrain.config import Natural, NotNegative


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """How much a translator learns by likelihood, and when; how long its samples may be."""

    likelihood: Natural = 0
    """Iterations by likelihood alone, before there is an adversary: those that a translator needs
    that does not come with --from; one that does is trained on in them."""
    teacher: NotNegative = 1.0
    """Factor on the supervised loss after that."""
    meanwhile: Literal["frozen", "supervised"] = "frozen"
    """What the translator does while the adversary is trained for it."""
    extra_words: Natural = 5
    """Words that a sample may have beyond the longest reference of its batch."""
