"""Holds every model of a bundle against ONNX's own checker, shape inference, ONNX Runtime and the rules of its profile.

    python check_onnx.py BUNDLE
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

MODELS = ("model.onnx", "model.int8.onnx", "model.tensorrt.onnx")
METADATA = {
    "earshot.version",
    "earshot.labels",
    "earshot.front_end",
    "earshot.front_end_hash",
    "earshot.data_hash",
    "earshot.sweep",
    "earshot.trial",
    "earshot.fold",
    "earshot.point",
    "earshot.checkpoint",
    "earshot.validation_metrics",
    "earshot.profile",
}


def dimensions(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def check_form(model, labels):
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    shapes = {value.name: dimensions(value) for value in inferred.graph.value_info}
    (features,), (logits,) = model.graph.input, model.graph.output
    assert features.name == "features" and logits.name == "logits"
    assert dimensions(features)[:2] == ["batch", 1] and dimensions(logits) == ["batch", len(labels)]
    for node in model.graph.node:
        for name in node.output:
            assert name == "logits" or all(shapes[name]), f"{name} has no shape"
    return dimensions(features)[2:]


def check_metadata(model, bundle, labels):
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert METADATA <= metadata.keys(), METADATA - metadata.keys()
    provenance = json.loads((bundle / "provenance.json").read_text())
    assert json.loads(metadata["earshot.labels"]) == labels
    assert json.loads(metadata["earshot.front_end"]) == json.loads((bundle / "front_end.json").read_text())
    assert metadata["earshot.front_end_hash"] == provenance["front_end_hash"]
    assert metadata["earshot.data_hash"] == provenance["data_hash"]
    assert metadata["earshot.trial"] == str(provenance["trial"])
    return metadata["earshot.profile"]


def check_batches(file, shape):
    """A batch gives what its clips give one by one."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    clips = np.random.default_rng(7).normal(0, 20, (3, 1, *shape)).astype(np.float32)
    together = session.run(["logits"], {"features": clips})[0]
    alone = np.concatenate([session.run(["logits"], {"features": clip[np.newaxis]})[0] for clip in clips])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-3 * np.abs(together).max())


def check_profile(model, profile):
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = model.graph.node
    quantise = [node for node in nodes if node.op_type == "QuantizeLinear"]
    restore = {node.output[0]: node for node in nodes if node.op_type == "DequantizeLinear"}
    weighted = [node for node in nodes if node.op_type in ("Conv", "Gemm")]
    relus = [node for node in nodes if node.op_type == "Relu"]
    if profile == "float":
        assert not quantise and not restore and len(relus) == len(weighted) - 1
        return
    for node in weighted:
        activation, weight, bias = node.input
        assert activation in restore, f"{node.name} reads floats"
        whole, scale, zero_point = (tensors[name] for name in restore[weight].input)
        (axis,) = [a.i for a in restore[weight].attribute if a.name == "axis"]
        assert axis == 0 and len(scale) == len(whole) and whole.dtype == np.int8
        assert not zero_point.any() and np.abs(whole.astype(int)).max() <= 127
        assert (bias in restore) == (profile == "onnxruntime"), f"{bias} in {profile}"
        if profile == "tensorrt":
            assert tensors[bias].dtype == np.float32
    zero_points = np.array([tensors[node.input[2]] for node in quantise])
    if profile == "tensorrt":
        assert not zero_points.any() and len(relus) == len(weighted) - 1
    else:
        # Saturation at the zero point of a range that starts at 0 is the ReLU.
        assert (zero_points == -128).any() and not relus


def main():
    bundle = Path(sys.argv[1])
    labels = (bundle / "labels.txt").read_text(encoding="utf-8").splitlines()
    for name in MODELS:
        model = onnx.load(bundle / name)
        shape = check_form(model, labels)
        profile = check_metadata(model, bundle, labels)
        check_profile(model, profile)
        check_batches(bundle / name, shape)
        print(f"{name}: {profile}, {len(model.graph.node)} nodes")


if __name__ == "__main__":
    main()
