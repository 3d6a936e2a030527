"""From text to a store."""
