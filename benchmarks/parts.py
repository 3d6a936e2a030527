"""Where the time of an ARAE iteration goes: each part of it timed by itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.contest import Lap, Step
from benchmarks.contestants import Setup
from lvtrain.kernels.cross_entropy import linear_cross_entropy
from lvtrain.modules.decoder import real_tokens, shifted
from lvtrain.objectives.adversarial import critic_loss, penalty
from lvtrain.randomness import Key
from lvtrain.systems.arae import ARAEConfig
from lvtrain.training.engine import TorchEngine
from lvtrain.training.game import Schedule

READS = 50
"""Batches read to time one: they are gathered many at a time."""


def composition(config: ARAEConfig, schedule: Schedule) -> dict[str, dict[str, int]]:
    """What the parts of an iteration are made of: how often each piece is done."""
    rounds = config.critic.rounds
    alternating = schedule == "alternating"
    penalised = config.critic.lipschitz.kind == "penalty"
    return {
        "batch reading": {"read": 2 + rounds if alternating else 1 + config.fresh},
        "encoder": {"encoder": 1},
        "decoder": {"decoder": 1},
        "vocabulary cross-entropy": {"vocabulary": 1},
        "critic encodings": {"show for all rounds": 1} if alternating else {"show fresh": 1},
        "critic updates": {"critic": rounds},
        "penalty": {"penalty": rounds if penalised else 0},
        "encoder adversarial": {"answer": 1, "encoder": int(alternating)},
        "generator": {"generator": 1},
        "optimisers and clipping": {
            "step of the model": 1,
            "step of the encoder": int(alternating),
            "step of the critic": rounds,
            "step of the generator": 1,
        },
    }


def parts(
    laps: Sequence[Lap], config: ARAEConfig, schedule: Schedule, iteration: float
) -> dict[str, dict[str, float]]:
    """Milliseconds and share of each part of an iteration of `iteration` seconds.

    The last, "other", is what the parts leave of it; negative where they ran faster together.
    """
    pieces = {name: statistics.median(lap.result[name] for lap in laps) for name in laps[0].result}
    seconds = {
        part: sum(times * pieces[piece] for piece, times in made_of.items())
        for part, made_of in composition(config, schedule).items()
    }
    seconds["other"] = iteration - sum(seconds.values())
    return {
        part: {"ms": round(1e3 * value, 3), "share": round(value / iteration, 4)}
        for part, value in seconds.items()
    }


class TimedEngine(TorchEngine):
    """Notes how long each of its steps takes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seconds: list[float] = []

    def step(self, key: Key) -> dict[str, Tensor]:
        start = time.perf_counter()
        figures = super().step(key)
        self.seconds.append(time.perf_counter() - start)
        return figures


def pieces(setup: Setup) -> Step:
    """Does every piece once; gives the seconds of each by name."""
    setup.start(keep_memory=True)
    batches = setup.batches()
    arae, game = setup.game("alternating", TimedEngine)
    engines = {name: cast(TimedEngine, engine) for name, engine in game.engines.items()}
    model, adversary = game.model, game.adversary
    assert adversary is not None
    config, decoder, encoder = arae.config, arae.decoder, arae.autoencoder.encoder
    recurrent = [*decoder.layers.parameters(), decoder.embedding]

    def step(number: int) -> dict[str, float]:
        key = Key(seed=setup.seed, step=number)
        batch = batches.at(number)
        others = [batches.at(number + 1 + i) for i in range(config.critic.rounds)]
        tokens, lengths = batch.tokens, batch.lengths
        inputs, real = shifted(tokens), real_tokens(tokens, lengths)
        with torch.no_grad():
            code = arae.encode(tokens, lengths)
            states = decoder.states(code, inputs, lengths)
            fake = arae.sample_codes(len(code), key, code.device)
        code_leaf, chosen = code.clone().requires_grad_(), states[real].requires_grad_()
        along_code, along_states = torch.randn_like(code), torch.randn_like(states)
        mix = key.uniform(len(code), 1, device=code.device)

        def read() -> None:
            for i in range(READS):
                batches.at(number * READS + i)

        def sample_and_criticise() -> None:
            with torch.no_grad():
                sampled = arae.sample_codes(len(code), key, code.device)
            _differentiate(critic_loss(arae.critic, code, sampled), arae.critic.parameters())

        work: dict[str, Callable[[], object]] = {
            "encoder": lambda: _differentiate(
                arae.encode(tokens, lengths), encoder.parameters(), along_code
            ),
            "decoder": lambda: _differentiate(
                decoder.states(code_leaf, inputs, lengths), [code_leaf, *recurrent], along_states
            ),
            "vocabulary": lambda: _differentiate(
                linear_cross_entropy(chosen, decoder.output, tokens[real], decoder.output_bias),
                [chosen, decoder.output, decoder.output_bias],
            ),
            "show for all rounds": lambda: model.show(others, key),
            "show fresh": lambda: model.show(others[: config.fresh], key),
            "critic": sample_and_criticise,
            "penalty": lambda: _differentiate(
                penalty(arae.critic, code, fake, mix, config.critic.lipschitz),
                arae.critic.parameters(),
            ),
            "answer": lambda: adversary.answer({"codes": code}),
            "generator": lambda: adversary.generate(len(code), key),
        }
        seconds = {name: _seconds(piece, setup) for name, piece in work.items()}
        seconds["read"] = _seconds(read, setup) / READS
        seconds["generator"] -= engines["generator"].seconds[-1]
        game.iterate(batches, key)
        seconds["step of the model"], seconds["step of the encoder"] = engines["model"].seconds
        seconds["step of the critic"] = statistics.median(engines["critic"].seconds)
        seconds["step of the generator"] = engines["generator"].seconds[-1]
        for engine in engines.values():
            engine.seconds.clear()
        return seconds

    return step


def _differentiate(
    output: Tensor, inputs: Iterable[Tensor], along: Tensor | None = None
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output, list(inputs), along)


def _seconds(piece: Callable[[], object], setup: Setup) -> float:
    start = time.perf_counter()
    piece()
    setup.finish()
    return time.perf_counter() - start
