"""Telemetry of the inference libraries, switched off.

ONNX Runtime's official builds since 1.29 and OpenVINO's Python package report on their use, by default and from the
moment they are imported: they look up a host of their maker, and write a device id into the user's home. On a machine
that reads emotions nothing may be sent that its owner did not ask for (docs/reliability.md).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

__all__ = ["import_openvino", "switch_off_onnxruntime"]

_SWITCH = "ORT_DISABLE_TELEMETRY"
_KEEPS = frozenset({"0", "false", "no", "off"})
_OPENVINO_TELEMETRY = "openvino_telemetry"


def switch_off_onnxruntime() -> None:
    """Sets ``ORT_DISABLE_TELEMETRY=1`` for this process and its children, unless the user set it to 0.

    ONNX Runtime reads it once, while it is imported; its own ``disable_telemetry_events()`` comes too late to stop
    either the look-ups or the device id.
    """
    if os.environ.get(_SWITCH, "").strip().lower() not in _KEEPS:
        os.environ[_SWITCH] = "1"


def import_openvino() -> Any:
    """The package ``openvino``, imported with its telemetry off, unless the user opted in (``opt_in_out --opt_in``).

    It has no switch but a file in the home directory, which is the user's; without the package that sends, it takes a
    stand-in of its own that does nothing.

    Raises:
        ImportError: OpenVINO is not installed, or its installation is broken.
    """
    if "openvino" in sys.modules or _opted_in():
        import openvino

        return openvino
    sender = sys.modules.get(_OPENVINO_TELEMETRY)
    sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment] # None makes an import fail, as if it were absent
    try:
        import openvino
    finally:
        del sys.modules[_OPENVINO_TELEMETRY]
        if sender is not None:
            sys.modules[_OPENVINO_TELEMETRY] = sender
    return openvino


def _opted_in() -> bool:
    try:
        with (Path.home() / "intel" / _OPENVINO_TELEMETRY).open("rb") as consent:
            return consent.read(1) == b"1"
    except (OSError, RuntimeError):  # no file, or no home
        return False
