"""Text to batches: sources, tokenisers, the store on disk and the order in which it is read."""
