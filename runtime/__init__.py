"""The runtime: opens a bundle, predicts, explains and checks itself, with numpy and ONNX Runtime alone."""

from dmdkit.errors import (
    AnswerError,
    BundleError,
    DmdkitError,
    EngineError,
    InputError,
    MissingDependencyError,
    MissingLibraryError,
)
from dmdkit.runtime.answers import Explanation, Prediction
from dmdkit.runtime.runtime import Runtime
from dmdkit.runtime.self_check import GraphCheck, SelfCheck

__all__ = [
    "AnswerError",
    "BundleError",
    "DmdkitError",
    "EngineError",
    "Explanation",
    "GraphCheck",
    "InputError",
    "MissingDependencyError",
    "MissingLibraryError",
    "Prediction",
    "Runtime",
    "SelfCheck",
]
