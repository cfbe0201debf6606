"""Numbers as people read them, and axes with round steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MISSING", "Axis", "change", "fitted", "megabytes", "number", "percent", "power", "text_width", "ticks"]

MISSING = "–"
_MINUS = "−"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_EM_PER_CHARACTER = 0.65
"""Width of a character in a wide sans-serif (DejaVu Sans has 0.64 for digits), so that narrower ones fit too."""


def power(exponent: int) -> str:
    """``10⁻³``."""
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def number(value: float | None, digits: int = 3) -> str:
    """``value`` with so many digits; very small and very large ones as a multiple of a power of ten."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
        return f"{mantissa}×{power(int(exponent))}".replace("-", _MINUS)
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}".replace("-", _MINUS)


def change(value: float | None, digits: int = 4) -> str:
    """A signed difference with ``digits`` decimals; one that rounds to zero is shown without a sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    shown = f"{value:+.{digits}f}"
    return (shown[1:] if float(shown) == 0 else shown).replace("-", _MINUS)


def percent(share: float, digits: int = 0) -> str:
    """``0.289`` -> ``29 %``; a share that is not all is never rounded up to 100, nor one that is not none down to 0."""
    if 0 < share < 1:
        low = 10.0**-digits
        return f"{min(max(100 * share, low), 100 - low):.{digits}f} %"
    return f"{100 * share:.0f} %"


def megabytes(size_bytes: float) -> str:
    """Decimal megabytes, or kilobytes where they say more."""
    return f"{size_bytes / 1e3:.1f} kB" if size_bytes < 1e5 else f"{size_bytes / 1e6:.2f} MB"


def text_width(text: str, size: float) -> float:
    """An upper estimate of a line's width at font size ``size``, in the same unit."""
    return len(text) * size * _EM_PER_CHARACTER


def fitted(text: str, room: float, size: float) -> str:
    """``text``, its middle left out where it would be wider than ``room``."""
    most = max(3, int(room / (size * _EM_PER_CHARACTER)))
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers inside [low, high], at most ``most`` of them."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    rough = span / max(1, most - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    for step in (unit, 2 * unit, 2.5 * unit, 5 * unit, 10 * unit, 20 * unit):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [index * step for index in range(first, last + 1)]
    return [low, high]


@dataclass(frozen=True)
class Axis:
    """Maps [low, high] to the pixels [start, end], linearly or by the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of ``value``, kept on the axis."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log10(max(v, 1e-300)) for v in (value, low, high))
        share = 0.0 if high == low else (value - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The range of ``values`` with a twentieth of room on both sides; never empty."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or max(0.5, 0.05 * abs(low))
    return low - room, high + room
