"""A stand-in for TensorRT's Python package: what dmdkit calls, by the names of 10.3 that 11 kept, and nothing else.

A plan is the ONNX file; ONNX Runtime runs it. Every class has ``__slots__``, so that a name it lacks is an error here too.
``FAKE_TENSORRT_VERSION`` is its version; ``FAKE_TENSORRT_FALLS_BACK`` makes every layer fp32, as a device once did.
"""

from __future__ import annotations

import ctypes
import json
import os
from enum import Enum, IntEnum

import numpy as np
import onnx
import onnxruntime

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "10.3.0")
NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
BuilderFlag = IntEnum("BuilderFlag", {"TF32": 7})
MemoryPoolType = IntEnum("MemoryPoolType", {"WORKSPACE": 0})
ProfilingVerbosity = IntEnum("ProfilingVerbosity", {"DETAILED": 2})
LayerInformationFormat = IntEnum("LayerInformationFormat", {"JSON": 1})
DataType = Enum("DataType", {"FLOAT": 0, "HALF": 1, "INT8": 2, "INT64": 9, "OTHER": 99})
LayerType = IntEnum("LayerType", {"CONVOLUTION": 0, "CAST": 1, "MATRIX_MULTIPLY": 2, "SHUFFLE": 3, "DEQUANTIZE": 4, "OTHER": 5})
_LAYERS = {
    "Conv": LayerType.CONVOLUTION,
    "Cast": LayerType.CAST,
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "Gemm": LayerType.MATRIX_MULTIPLY,
    "Reshape": LayerType.SHUFFLE,
    "Transpose": LayerType.SHUFFLE,
    "DequantizeLinear": LayerType.DEQUANTIZE,
}
_TYPES = {1: DataType.FLOAT, 10: DataType.HALF, 3: DataType.INT8, 7: DataType.INT64}


class ILogger:
    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    pass


class IProgressMonitor:
    pass


class ITensor:
    __slots__ = ("dtype", "name", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], dtype: DataType) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class ILayer:
    def __init__(self, name: str, kind: LayerType, inputs: list[ITensor], outputs: list[ITensor], node: onnx.NodeProto) -> None:
        self.name, self.type, self._inputs, self._outputs = name, kind, inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        attributes = {item.name: item for item in node.attribute}
        self.groups = attributes["group"].i if "group" in attributes else 1
        self.kernel = tuple(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else ()

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class IConvolutionLayer(ILayer):
    @property
    def num_groups(self) -> int:
        return self.groups

    @property
    def kernel_size_nd(self) -> tuple[int, ...]:
        return self.kernel


class Network:
    __slots__ = ("inputs", "layers", "model", "outputs")

    def load(self, model: onnx.ModelProto) -> None:
        self.model = model
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        known = {tensor.name: ITensor(tensor.name, tuple(tensor.dims), DataType.OTHER) for tensor in inferred.initializer}
        for value in (*inferred.value_info, *inferred.input, *inferred.output):
            shape = tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)
            dtype = _TYPES.get(value.type.tensor_type.elem_type, DataType.OTHER)
            known[value.name] = ITensor(value.name, shape, dtype)
        missing = ITensor("", (), DataType.OTHER)
        self.inputs = [known[value.name] for value in inferred.input]
        self.outputs = [known[value.name] for value in inferred.output]
        self.layers = [
            ILayer(
                node.name,
                _LAYERS.get(node.op_type, LayerType.OTHER),
                [known.get(name, missing) for name in node.input],
                [known.get(name, missing) for name in node.output],
                node,
            )
            for node in inferred.node
        ]

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_input(self, index: int) -> ITensor:
        return self.inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self.outputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]


class ParserError:
    def desc(self) -> str:
        return "not a model"

    node_operator = node_name = lambda _: ""


class OnnxParser:
    __slots__ = ("network", "num_errors")

    def __init__(self, network: Network, logger: ILogger) -> None:
        self.network, self.num_errors = network, 0

    def parse(self, data: bytes) -> bool:
        try:
            self.network.load(onnx.load_from_string(data))
        except Exception:
            self.num_errors = 1
        return self.num_errors == 0

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class Profile:
    __slots__ = ("shapes",)

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


class BuilderConfig:
    __slots__ = ("max_aux_streams", "profile", "profiling_verbosity", "progress_monitor", "tf32", "workspace")

    def __init__(self) -> None:
        self.tf32 = True

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.workspace = size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.tf32 = False

    def add_optimization_profile(self, profile: Profile) -> None:
        self.profile = profile


class Builder:
    __slots__ = ("logger",)

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes | None:
        assert not config.tf32
        assert (config.max_aux_streams, config.profiling_verbosity) == (0, ProfilingVerbosity.DETAILED)
        assert set(config.profile.shapes) == {tensor.name for tensor in network.inputs}
        self.logger.log(3, f"building {network.num_layers} layers")
        config.progress_monitor.phase_start("Building", None, 1)
        if not config.progress_monitor.step_complete("Building", 0):
            return None
        config.progress_monitor.phase_finish("Building")
        return network.model.SerializeToString()


class Inspector:
    def __init__(self, plan: bytes) -> None:
        self.network = Network()
        self.network.load(onnx.load_from_string(plan))

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        eleven, layers, integer = not __version__.startswith("10."), [], set()
        for layer in self.network.layers:
            names = [layer.get_input(index).name for index in range(layer.num_inputs)]
            if layer.type == LayerType.DEQUANTIZE or (
                layer.type in (LayerType.SHUFFLE, LayerType.CAST) and names[0] in integer
            ):
                integer.update(layer.get_output(index).name for index in range(layer.num_outputs))
            kind = "Int8" if len(names) > 1 and set(names[:2]) <= integer else "Float"
            kind = "Float" if os.environ.get("FAKE_TENSORRT_FALLS_BACK") else kind
            tensor = {"Name": "x", "Datatype": kind} if eleven else {"Name": "x", "Format/Datatype": f"Row major linear {kind}"}
            layers.append({"Name": layer.name, "Inputs": [tensor], "Outputs": [], "Metadata": f"[ONNX Layer: {layer.name}]"})
        return json.dumps({"Layers": layers, "I/O Tensors" if eleven else "Bindings": []})


class Context:
    __slots__ = ("addresses", "session", "shapes")

    def __init__(self, plan: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self.session = onnxruntime.InferenceSession(plan, options, providers=["CPUExecutionProvider"])
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in {node.name for node in (*self.session.get_inputs(), *self.session.get_outputs())}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def _view(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        memory = (ctypes.c_uint8 * (int(np.prod(shape)) * np.dtype(dtype).itemsize)).from_address(self.addresses[name])
        return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def execute_async_v3(self, stream: int) -> bool:
        dtypes = {"tensor(float)": "float32", "tensor(int64)": "int64"}
        inputs = self.session.get_inputs()
        feed = {node.name: self._view(node.name, self.shapes[node.name], dtypes[node.type]).copy() for node in inputs}
        for node, found in zip(self.session.get_outputs(), self.session.run(None, feed), strict=True):
            self._view(node.name, found.shape, "float32")[:] = found
        return True


class Engine:
    __slots__ = ("plan",)

    def __init__(self, plan: bytes) -> None:
        self.plan = plan

    def create_execution_context(self) -> Context:
        return Context(self.plan)

    def create_engine_inspector(self) -> Inspector:
        return Inspector(self.plan)


class Runtime:
    __slots__ = ("logger",)

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        try:
            onnx.load_from_string(plan)
        except Exception:
            self.logger.log(1, "the plan cannot be read")
            return None
        return Engine(plan)
