"""Streams: the exact answer at every step for the price of one step (docs/streaming.md)."""
