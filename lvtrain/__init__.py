"""lvtrain trains latent-variable and adversarial text models.

`lvtrain.load(run)` gives a trained model; the command line is `lvtrain --help`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own is most of what importing this would take

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from lvtrain.model import Model
    from lvtrain.training.trainer import Outcome

__version__ = "0.1.0"


def load(
    run: Path | str, which: str | int = "best", data: Path | str | None = None, average: int = 1
) -> Model:
    """Load a run folder (or a folder `Model.save_pretrained` wrote) for use.

    `which` is "best", "latest" or a step; `data` is the store, where it has moved; `average` takes
    the mean of so many of the newest checkpoints. Imports torch, which `import lvtrain` does not.
    """
    from lvtrain.model import Model

    return Model.load(run, which, data, average)


def train(system: str, data: Path | str, out: Path | str, **how: Any) -> Outcome:
    """Train `system` ("arae", "vae", …) on a store into a run folder.

    Keywords: `preset`, `model` (the system's configuration), `start` (the run of the translator
    that a seq2seq-gan starts from, whose sizes it has), `resume` ("auto" or "never") and every
    field of `lvtrain.config.TrainConfig`.
    """
    from lvtrain.experiment import start

    return start(system, data, out, **how)
