"""Measurements: each script is run as `python -m benchmarks.<name>`."""
