"""What the commands say of the samples a verdict rests on, and of verdicts that no row of a ledger shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dmdkit.cli.console import note

if TYPE_CHECKING:
    from dmdkit.parity.ledger import Ledger
    from dmdkit.runtime.manifest import Manifest

__all__ = ["note_earlier_failures", "note_judged_on"]


def note_judged_on(ledger: Ledger, source: Path | str, split: str) -> None:
    """Says which of the samples given were left out of a ledger, and which only have names like those."""
    from dmdkit.data.fingerprints import said_of_names, said_of_uses

    if ledger.left_out:
        rest = (
            "" if ledger.split == split else "; none is left, so the bundle's golden samples are compared, which prove nothing"
        )
        note(f"{source}: {said_of_uses(ledger.left_out, split)} and are left out of the verdict{rest}")
    if ledger.named_alike:
        note(f"{source}: {said_of_names(ledger.named_alike, split)}")


def note_earlier_failures(ledger: Ledger, manifest: Manifest) -> None:
    """Names the graphs that failed in a check before this one, which has not proven them since."""
    from dmdkit.parity.verdicts import earlier_failures

    for name, reason in earlier_failures(ledger, manifest).items():
        note(f"{name}: failed in an earlier check, and nothing has proven it since: {reason}")
