"""The ``--backend`` option: which backends a command uses."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmdkit.runtime.backends.registry import BackendName

__all__ = ["BackendChoice", "backends_to_check"]


class BackendChoice(str, Enum):
    """A backend by name, or what is fitting."""

    auto = "auto"
    onnxruntime = "onnxruntime"
    openvino = "openvino"
    native = "native"


def backends_to_check(choice: BackendChoice) -> list[BackendName]:
    """The backends parity is measured on: ONNX Runtime always, and the others asked for or, with auto, installed.

    Raises:
        MissingDependencyError: The one asked for is not installed.
        MissingLibraryError: The native kernels are asked for and their library is not here or not usable.
    """
    from dmdkit.runtime.backends.registry import installed_backends
    from dmdkit.runtime.choice import check_backend

    if choice is BackendChoice.auto:
        return installed_backends()
    check_backend(choice.value, "cpu")
    asked: BackendName = choice.value
    return [asked] if asked == "onnxruntime" else ["onnxruntime", asked]
