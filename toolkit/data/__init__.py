"""Feature files: read, checked, inspected, written, and a generated sample to begin with. Needs numpy only."""

from dmdkit.data.dataset import MODALITIES, SPLITS, Dataset, Split
from dmdkit.data.hashing import sample_hashes
from dmdkit.data.inspection import DatasetReport, inspect_dataset
from dmdkit.data.loading import load_dataset
from dmdkit.data.overlap import refuse_trained_samples, same_samples
from dmdkit.data.sample import SAMPLE_DESCRIPTION, sample_dataset
from dmdkit.data.writing import write_dataset

__all__ = [  # noqa: RUF022 (grouped by what they are for)
    # the contract
    "MODALITIES",
    "SPLITS",
    "Dataset",
    "Split",
    # files
    "load_dataset",
    "write_dataset",
    # knowing what one has
    "DatasetReport",
    "inspect_dataset",
    "refuse_trained_samples",
    "same_samples",
    "sample_hashes",
    # generated data
    "SAMPLE_DESCRIPTION",
    "sample_dataset",
]
