"""The INT8 forms of a text encoder."""
