from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def published_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the published code saves it, of a model for the tiny set."""
    import torch

    from dmdkit.config import ModelShape
    from dmdkit.model import DmdSystem
    from tests.conftest import tiny_dataset
    from tests.model.test_published import published_state
    from tests.training.helpers import tiny_config

    torch.manual_seed(0)
    dataset = tiny_dataset()
    shape = ModelShape.from_config(tiny_config().model, dataset.feature_dims, dataset.lengths, 1)
    path = tmp_path_factory.mktemp("published") / "dmd.pth"
    torch.save(published_state(DmdSystem(shape), prefix=""), path)
    return path
