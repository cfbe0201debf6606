"""What a run's text encoder adds to its bundle: graphs, tokenizer, golden tokens, a record in the manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dmdkit.data import Split
from dmdkit.errors import ExportError
from dmdkit.export.graphs import ExportedGraph
from dmdkit.export.text_inference import text_graph
from dmdkit.export.tokenizer_check import inexpressible
from dmdkit.files import sha256_of_file
from dmdkit.model.text_encoder import TextEncoder
from dmdkit.runtime.manifest import TEXT_INPUTS, TextRecord
from dmdkit.runtime.text.tokenizer import Layout, lay_out
from dmdkit.training.encoder_directory import encoded_split, run_encoder
from dmdkit.training.run import TEXT_DIR, Run, TextFacts

__all__ = ["TOKENIZER_FILE", "TextExporter", "tokens_of"]

TOKENIZER_FILE = "tokenizer.json"


def tokens_of(split: Split) -> dict[str, npt.NDArray[np.int64]]:
    """A split's tokens under the text graphs' input names.

    Raises:
        ExportError: It has none.
    """
    if split.tokens is None:
        raise ExportError("the samples have no tokens; pass them through dmdkit.training.encoder_directory.run_dataset first")
    return {name: np.ascontiguousarray(split.tokens[:, index]) for index, name in enumerate(TEXT_INPUTS)}


@dataclass(frozen=True)
class TextExporter:
    """A run's text encoder on its way into a bundle.

    Attributes:
        facts: The run's record of the encoder: tokens, padding, fine-tuning.
        encoder: The run's text encoder, in evaluation mode.
        layout: Length, padding side and padding id of its inputs.
        tokenizer: Content of ``tokenizer.json``.
        encoder_sha256: Of its weights' file.
    """

    facts: TextFacts
    encoder: TextEncoder
    layout: Layout
    tokenizer: bytes
    encoder_sha256: str

    @classmethod
    def of(cls, run: Run) -> TextExporter | None:
        """The encoder of a run that has one.

        Raises:
            RunError: It is damaged.
            ExportError: Its tokenizer does what the C++ runtime does not, so half of the robots could not read words.
        """
        if run.facts.text is None:
            return None
        encoder, tokenizer = run_encoder(run)
        folder = run.path / TEXT_DIR
        sha256, data = sha256_of_file(folder / "model.safetensors"), (folder / TOKENIZER_FILE).read_bytes()
        reason = inexpressible(data, str(folder / TOKENIZER_FILE))
        if reason is not None:
            raise ExportError(
                f"{folder / TOKENIZER_FILE}: the C++ runtime reads words by BERT's tokenizer, this one is another "
                f"({reason}); train with an encoder that has BERT's, or on the features of a feature file"
            )
        return cls(run.facts.text, encoder, tokenizer.layout, data, sha256)

    def graph(self) -> ExportedGraph:
        """``text.fp32``."""
        return ExportedGraph("text", "fp32", text_graph(self.encoder, self.layout.max_tokens), {})

    def synthetic(self, split: Split, seed: int) -> Split:
        """``split`` with seeded random sentences for its text, of every length."""
        generator, size = np.random.default_rng(seed), self.layout.vocabulary_size
        lengths = np.linspace(1, self.layout.max_tokens, len(split)).round().astype(np.int64)
        rows = [generator.integers(0, size, int(length)).tolist() for length in lengths]
        batch = lay_out(rows, self.layout)
        tokens = np.stack([batch.input_ids, batch.attention_mask], axis=1)
        return encoded_split(replace(split, tokens=tokens), self.encoder)

    def record(self) -> TextRecord:
        """Its entry in the manifest."""
        return TextRecord(
            tokenizer=TOKENIZER_FILE,
            max_tokens=self.layout.max_tokens,
            vocabulary_size=self.layout.vocabulary_size,
            pad_id=self.layout.pad_id,
            padding_side=self.layout.padding_side,
            padded_steps=self.facts.padded_steps,
            lengths="dynamic" if self.facts.padded_steps == "zero" else "fixed",
            fine_tuned=self.facts.fine_tuned,
            encoder_sha256=self.encoder_sha256,
        )
