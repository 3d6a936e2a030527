"""What many tests share: a small store of the embedded grammar."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from lvtrain.grammar.grammar import Grammar
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences
from lvtrain.text.sources import Sentences

# Without a GPU the Triton kernels are tested in Triton's interpreter. Triton reads this when it is
# imported, which no test module does before this file is.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# What a shell runs in the background, as it may these tests, ignores Ctrl-C, and so would whatever
# is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Shapes here are tiny: a second thread would cost more than it gives.
torch.set_num_threads(1)
# A busy machine is slow without being wrong.
settings.register_profile("lvtrain", deadline=None)
settings.load_profile("lvtrain")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 600 sentences of the grammar with translations, and 60 more for validation."""
    path = tmp_path_factory.mktemp("data") / "store"
    texts, targets = zip(*Grammar().sample_pairs(660, seed=0), strict=True)
    train = Sentences(texts=texts[:600], targets=targets[:600])
    valid = Sentences(texts=texts[600:], targets=targets[600:])
    prepare_sentences(train, valid, config=PrepareConfig(), out=path)
    return path
