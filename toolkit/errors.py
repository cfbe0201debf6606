"""The errors dmdkit raises, and the process exit code each one maps to.

Library code raises; only the command line prints and exits. Every message says what was expected, what came,
from which file or input, and what to do next.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "BundleError",
    "CalibrationError",
    "ConfigError",
    "DataError",
    "DmdkitError",
    "EngineError",
    "ExitCode",
    "ExportError",
    "InputError",
    "MissingDependencyError",
    "MissingLibraryError",
    "RunError",
    "RunnerError",
    "WeightsError",
]


class ExitCode(IntEnum):
    """Process exit codes of every ``dmdkit`` command."""

    GOOD = 0
    USER_ERROR = 1
    NOT_PASSED = 2
    MISSING_DEPENDENCY = 3
    BUG = 70
    INTERRUPTED = 130


class DmdkitError(Exception):
    """Base of every error dmdkit raises on purpose; its text is one readable message."""

    exit_code: ExitCode = ExitCode.USER_ERROR


class ConfigError(DmdkitError):
    """A recipe, a ``--set`` assignment or an option is wrong."""


class DataError(DmdkitError):
    """A feature file is missing, damaged, or does not follow its schema."""


class WeightsError(DmdkitError):
    """A checkpoint cannot be read or does not describe a DMD model."""


class RunError(DmdkitError):
    """A run directory is missing, incomplete, in use, or would be overwritten."""


class CalibrationError(DmdkitError):
    """Calibration data is absent, too small, overlaps held-out data, or is not of the run's kind."""


class ExportError(DmdkitError):
    """A graph could not be written or broke the graph contract."""


class EngineError(DmdkitError):
    """An engine could not be built, does not belong to this bundle or machine, or failed."""


class BundleError(DmdkitError):
    """A bundle is missing, damaged, edited, or of a version this dmdkit does not read."""


class InputError(DmdkitError):
    """An array handed to the runtime has the wrong name, shape, dtype or values."""


class AnswerError(DmdkitError):
    """A graph answered with what is not finite, for inputs that are."""


class RunnerError(DmdkitError):
    """A program that should run a bundle (``--runner``) cannot be started, crashed, or gave no usable answer."""


class MissingLibraryError(DmdkitError):
    """A native library that this machine has not, or cannot use."""

    exit_code = ExitCode.MISSING_DEPENDENCY


class MissingDependencyError(DmdkitError):
    """An optional package is not installed.

    Args:
        package: The package as it is imported.
        extra: The dmdkit extra that brings it.
        purpose: What needed it, as a noun phrase ("training", "INT8 quantisation").
    """

    exit_code = ExitCode.MISSING_DEPENDENCY

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra, self.purpose = package, extra, purpose
        super().__init__(f"{purpose} needs the package {package!r}; install it with: pip install 'dmdkit[{extra}]'")
