"""Optional packages, asked for before a command does anything."""

from __future__ import annotations

from importlib import import_module

from dmdkit.errors import MissingDependencyError

__all__ = ["require"]


def require(purpose: str, extra: str, *packages: str) -> None:
    """Imports ``packages``.

    Args:
        purpose: What needs them, as a noun phrase.
        extra: The dmdkit extra that brings them.
        packages: Names as imported.

    Raises:
        MissingDependencyError: One is not installed, or lacks something itself.
    """
    for package in packages:
        try:
            import_module(package)
        except ImportError as cause:
            raise MissingDependencyError((cause.name or package).partition(".")[0], extra, purpose) from cause
