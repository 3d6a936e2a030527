"""The Triton kernels on a GPU against what else there is: see `benchmarks.kernels`."""
