"""Useful floating-point operations of an ARAE iteration, counted by formula.

Matrix products alone, 2mnk each; a backward pass takes twice its forward pass. Counted is what the
algorithm needs: no padding, no product with an initial state of zero, the code's product once a
sentence, no gradient where nobody asks for one. The inputs' product counts for every token, as an
LSTM is defined, though lvtrain takes it once for each distinct word of a batch on a CPU. N tokens,
B rows, V vocabulary, E embedding, H hidden, C code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lvtrain.systems.arae import ARAEConfig
from lvtrain.training.game import Schedule


def lstm_flops(tokens: float, rows: int, inputs: int, hidden: int) -> float:
    """Gates of one layer, forward: 2·N·4H·I for the inputs, 2·(N − B)·4H·H for the states."""
    return 2 * 4 * hidden * (tokens * inputs + (tokens - rows) * hidden)


def mlp_flops(rows: int, sizes: Sequence[int]) -> float:
    """Forward through the linear layers of an MLP: 2·B·Σ nm."""
    return 2 * rows * sum(n * m for n, m in pairwise(sizes))


def iteration_flops(
    config: ARAEConfig, vocab_size: int, rows: int, words: float, schedule: Schedule
) -> dict[str, float]:
    """FLOPs of an iteration by part, for batches of `rows` sentences with `words` tokens each."""
    model, rounds = config.autoencoder, config.critic.rounds
    hidden, code = model.hidden, model.code_size
    generator = [config.generator.noise, *config.generator.layers, code]
    critic = [code, *config.critic.layers, 1]
    deeper = (model.layers - 1) * lstm_flops(words, rows, hidden, hidden)
    lstm = lstm_flops(words, rows, model.embedding, hidden) + deeper
    encoder = lstm + (2 * rows * hidden * code if model.code else 0)
    # Gradients of the weights in full; of the inputs, for all layers but the first.
    update = 3 * mlp_flops(2 * rows, critic) - 2 * 2 * rows * critic[0] * critic[1]
    generator_update = 3 * mlp_flops(rows, generator) - 2 * rows * generator[0] * generator[1]
    answer = 2 * mlp_flops(rows, critic)
    penalised = config.critic.lipschitz.kind == "penalty"
    alternating = schedule == "alternating"
    return {
        "encoder": 3 * encoder,
        "decoder": 3 * (lstm + 2 * rows * 4 * hidden * code),
        "vocabulary cross-entropy": 3 * 2 * words * hidden * vocab_size,
        "critic encodings": (rounds if alternating else config.fresh) * encoder,
        "critic updates": rounds * (update + mlp_flops(rows, generator)),
        # Scores, their gradient, its tangent, and the weights' gradients: one forward's worth each.
        "penalty": rounds * 4 * mlp_flops(rows, critic) if penalised else 0.0,
        "encoder adversarial": answer + (3 * encoder if alternating else 0),
        "generator": generator_update + answer,
    }
