"""The proof: how far every form of a model is from the one before it, on held-out samples, and what it costs."""
