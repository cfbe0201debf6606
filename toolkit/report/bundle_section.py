"""What the bundle is: where it came from, its files and hashes, and what made it."""

from __future__ import annotations

from dmdkit.report.facts import Facts
from dmdkit.report.markup import Child, join, tag
from dmdkit.report.numbers import MISSING, megabytes
from dmdkit.report.parts import Section, details, long_text, table

__all__ = ["bundle_section"]


def _hash(value: str | None) -> Child:
    return MISSING if value is None else tag("code", long_text(value))


def bundle_section(facts: Facts) -> Section:
    """Folded tables."""
    manifest, ledger = facts.manifest, facts.ledger
    source, shape = manifest.source, manifest.model
    origin = "trained by dmdkit" if source.origin == "train" else "imported weights"
    general: list[list[Child]] = [
        ["Name", long_text(manifest.name)],
        ["Made", manifest.created],
        ["Run", join([long_text(source.run), f" ({origin}, {source.created})"])],
        ["Weights, SHA-256", _hash(source.model_sha256)],
        ["Training data, SHA-256", _hash(source.data_sha256)],
        ["Model", f"width {shape.width}, {shape.heads} heads, {shape.levels} levels, {shape.num_outputs} output(s)"],
        ["Golden samples", f"{manifest.golden.samples}, {manifest.golden.kind}"],
    ]
    if manifest.text is not None:
        tuned = "fine-tuned with the model" if manifest.text.fine_tuned else "as it came"
        said = f"{manifest.text.max_tokens} tokens of {manifest.text.vocabulary_size}, {tuned}"
        general += [["Text encoder", said], ["Its weights, SHA-256", _hash(manifest.text.encoder_sha256)]]
    if ledger is not None:
        general += [
            ["Checked", ledger.created],
            ["Checked on", join([long_text(ledger.data), f", {ledger.split}, {ledger.samples} samples"])],
            ["That file, SHA-256", _hash(ledger.data_sha256)],
        ]
    if manifest.calibration is not None:
        found = manifest.calibration
        general += [
            ["Calibration", f"{len(found.sample_ids)} training samples, method {found.method}"],
            ["Calibrated features, SHA-256", _hash(found.content_sha256)],
        ]
    inputs: list[list[Child]] = [
        [
            name,
            str(item.steps),
            str(item.features),
            item.padding_side,
            item.normalisation,
            "yes" if item.trained_absent else "no",
        ]
        for name, item in manifest.inputs.items()
    ]
    files: list[list[Child]] = [
        [long_text(name), megabytes(record.size_bytes), _hash(record.sha256)] for name, record in manifest.files.items()
    ]
    tools: list[list[Child]] = [[long_text(name), long_text(version)] for name, version in manifest.tools.items()]
    heads: list[Child] = ["Input", "Steps", "Features", "Padding", "Normalisation", "May be absent"]
    body = join(
        [
            details("Origin and data", table("Origin and data", ["What", "Value"], general)),
            details("Inputs", table("Inputs, float32, batch first", heads, inputs, right=(1, 2))),
            details("Files and hashes", table("Files", ["File", "Size", "SHA-256"], files, right=(1,))),
            details("Tools that made it", table("Tools", ["Package", "Version"], tools)),
        ]
    )
    return Section("The bundle", body)
