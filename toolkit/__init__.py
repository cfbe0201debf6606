"""dmdkit: DMD emotion models, trained, exported, quantised and proven."""

__version__ = "0.1.0"

__all__ = ["__version__"]
