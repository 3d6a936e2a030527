"""What only a GPU shows of a training step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.presets import preset
from lvtrain.randomness import Key
from lvtrain.systems import SYSTEMS, entry
from lvtrain.training.engine import TorchEngine
from lvtrain.training.replay import Recorded, cuda_graph
from lvtrain.training.watch import Watch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_never_has_the_host_wait(system: str, store: Path) -> None:
    data = Store.open(store)
    config, _ = preset(system, "tiny")
    _, build = entry(system).load()
    torch.manual_seed(0)
    module = build(config, data.tokenizer.vocab_size).to("cuda")
    watch = Watch("cuda")
    game = module.game(lambda n, m, c: TorchEngine(n, m, c, 10, watch))
    batches = Batches(data.split("train"), batch_size=16, seed=0, device="cuda")
    for step in range(2):  # compiles, and fills the optimisers' state
        game.iterate(batches, Key(seed=0, step=step))
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics, _ = game.iterate(batches, Key(seed=0, step=2))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.as_tensor(value).isfinite() for value in metrics.values())
    watch.check()


def test_an_arae_on_a_gpu_learns_as_on_a_cpu(store: Path) -> None:
    data = Store.open(store)
    config, _ = preset("arae", "tiny")
    _, build = entry("arae").load()
    # Draws differ between devices: with neither code noise nor its effect, the text side agrees.
    config = replace(config, autoencoder=replace(config.autoencoder, noise=0.0), answer_scale=0.0)
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        module = build(config, data.tokenizer.vocab_size).to(device)
        game = module.game(lambda n, m, c: TorchEngine(n, m, c, 10))
        batches = Batches(data.split("train"), batch_size=16, seed=0, device=device)
        played = [game.iterate(batches, Key(seed=0, step=s))[0] for s in range(5)]
        losses.append([float(metrics["reconstruction"]) for metrics in played])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("system", "changes"),
    [("arae", {}), ("vae", {}), ("lm", {}), ("lm", {"dropout": 0.2})],
    ids=["arae", "vae", "lm", "lm-dropout"],
)
def test_recorded_steps_learn_as_played_ones_do_and_never_wait(
    system: str, changes: dict[str, float], store: Path
) -> None:
    data = Store.open(store)
    config = replace(preset(system, "tiny")[0], **changes)
    _, build = entry(system).load()
    losses = []
    for recorded in (False, True):
        torch.manual_seed(0)
        module = build(config, data.tokenizer.vocab_size).to("cuda")
        watch = Watch("cuda")
        game = module.game(lambda n, m, c, w=watch: TorchEngine(n, m, c, 40, w))
        player = Recorded(game, cuda_graph(), widths=64) if recorded else game
        batches = Batches(data.split("train"), batch_size=16, seed=0, device="cuda")
        figures = []
        for step in range(20):
            if step == 15:
                torch.cuda.set_sync_debug_mode("error")
            figures.append(player.iterate(batches, Key(seed=0, step=step))[0])
        torch.cuda.set_sync_debug_mode("default")
        watch.check()
        losses.append([float(next(iter(f.values()))) for f in figures])
    assert losses[0] == pytest.approx(losses[1], rel=5e-2)
