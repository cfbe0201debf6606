"""Optional packages, asked for before a command does anything."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from dmdkit.errors import ConfigError, MissingDependencyError

__all__ = ["require"]


def require(purpose: str, extra: str, *packages: str) -> None:
    """Imports ``packages``.

    Args:
        purpose: What needs them, as a noun phrase.
        extra: The dmdkit extra that brings them.
        packages: Names as imported.

    Raises:
        ConfigError: The working directory was deleted, where PyTorch cannot start.
        MissingDependencyError: One is not installed, or lacks something itself.
    """
    if "torch" in packages:
        try:
            Path.cwd()
        except OSError as cause:  # its libraries would end the process, with the exit code of a verdict that is not passed
            raise ConfigError(f"{purpose}: the working directory is gone; change to one that is there") from cause
    for package in packages:
        try:
            import_module(package)
        except ImportError as cause:
            raise MissingDependencyError((cause.name or package).partition(".")[0], extra, purpose) from cause
