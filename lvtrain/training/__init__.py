"""Playing a game step by step: engines, checkpoints, logs."""
