"""Makes calibration.json: ranges that onnxruntime.quantization's calibrators choose.

    python calibration.py        in an environment with tests/python/requirements.txt installed

The numbers come from a generator that the Rust test repeats bit for bit: xorshift, and float32 arithmetic in the same order.
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization.calibrate import HistogramCollector

COUNT = 20_000
QUANTISED_BINS = 128


def uniform(count):
    """Numbers in [0, 1) with 24 bits."""
    state = 0x9E3779B9
    values = []
    for _ in range(count):
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        values.append(state >> 8)
    return np.array(values, np.float32) / np.float32(1 << 24)


def sets():
    a, b, c, d = (uniform(4 * COUNT)[i::4] for i in range(4))
    one, half = np.float32(1), np.float32(0.5)
    bell = a + b + c + d - np.float32(2)
    tail = (a - half) / (b + np.float32(0.002))
    return {
        "bell": bell,
        "relu": np.maximum(bell - half, np.float32(0)),
        "tail": tail,
        "skewed": a * b * c * np.float32(7) - one,
    }


def chosen(values, method, bins, percentile):
    collector = HistogramCollector(
        method=method, symmetric=False, num_bins=bins, num_quantized_bins=QUANTISED_BINS, percentile=percentile, scenario="same"
    )
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": values})
        result = collector.compute_collection_result()["x"]
    return [float(np.float32(bound)) for bound in result[:2]]


def main():
    golden = {"onnxruntime": onnxruntime.__version__, "count": COUNT, "sets": {}}
    for name, values in sets().items():
        assert values.dtype == np.float32
        golden["sets"][name] = {
            "first": [float(value) for value in values[:4]],
            "min_max": [float(values.min()), float(values.max())],
            "percentile": {str(p): chosen(values, "percentile", 2048, p) for p in (99.0, 99.9, 99.99, 99.999)},
            "entropy": {str(bins): chosen(values, "entropy", bins, 99.99) for bins in (128, 512, 2048)},
        }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
