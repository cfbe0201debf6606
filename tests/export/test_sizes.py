"""INT8 files are as small as promised, at the sizes the promises are about."""

import numpy as np
import pytest
import torch

from dmdkit.calibration.search.planning import SearchOptions
from dmdkit.config import ModelShape
from dmdkit.data import Split
from dmdkit.export.graphs import fp32_graphs, int8_graphs, plan_for
from dmdkit.model import DmdSystem
from tests.calibration.builders import samples_of
from tests.model.test_dmd import shape_of

# name -> (shape, largest share of the fp32 file, largest share of the weight bytes)
CASES: dict[str, tuple[ModelShape, float, float]] = {
    "word-aligned MOSI": (shape_of(50, 10, 4, lengths=(50, 50, 50), kernels=(5, 5, 5), dims=(768, 5, 20)), 0.30, 0.27),
    "width 30, 2 levels": (shape_of(30, 6, 2, lengths=(8, 8, 8), dims=(100, 73, 100)), 0.35, 0.27),
    "the demo": (shape_of(30, 6, 2, lengths=(20, 20, 20), dims=(32, 12, 20)), 0.35, 0.27),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_int8_files_and_weights_are_a_quarter_of_fp32(name: str) -> None:
    shape, file_share, weight_share = CASES[name]
    torch.manual_seed(0)
    system = DmdSystem(shape).eval()
    for parameter in system.parameters():  # zero biases would be stored once and flatter the sizes
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    dims = shape.feature_dims.as_dict()
    generator = np.random.default_rng(0)
    features = {m: generator.normal(size=(32, t, dims[m])).astype(np.float32) for m, t in shape.lengths.as_dict().items()}
    split = Split(tuple(map(str, range(32))), **features, labels=np.zeros(32, np.float32))
    graphs = fp32_graphs(system, lambda _: None)
    plain = [graph for graph in graphs if graph.kind == "fusion"]
    options = SearchOptions(mode="none", method="max")
    plan = plan_for(graphs, samples_of(split), options)
    lowered = int8_graphs(plain, plan, lambda _: None)
    assert [graph.precision for graph in lowered] == ["int8-cpu", "int8-trt"]
    whole, weights = len(plain[0].model.SerializeToString()), plain[0].record().weight_bytes
    for graph in lowered:
        record = graph.record()
        assert len(graph.model.SerializeToString()) <= file_share * whole, graph.name
        assert record.weight_bytes <= weight_share * weights, graph.name
        assert record.weights_stored_int8 == 1.0
