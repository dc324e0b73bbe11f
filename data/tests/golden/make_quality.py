"""Makes quality.json beside it: what numpy, soundfile and librosa measure on the signals of make.py.

    python -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python make_quality.py

Given a dataset in ESC-50's layout, it prints instead the same of its clips, and nothing is written:

    venv/bin/python make_quality.py path/to/dataset > clips.json
"""

import json
import pathlib
import sys

import librosa
import numpy as np
import soundfile

HERE = pathlib.Path(__file__).parent

FULL_SCALE = 32767 / 32768
DIGITAL_SILENCE = 1e-5


def dbfs(amplitude):
    return 20 * float(np.log10(amplitude)) if amplitude > 0 else None


def runs(at_full_scale):
    """Runs of at least three samples at full scale in one channel."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], at_full_scale.astype(int), [0]])))
    return int(np.sum(edges[1::2] - edges[::2] >= 3))


def noise_floor(mono):
    exact = mono.astype(np.float64)
    if len(mono) < 2048:
        levels = hops = np.array([np.sqrt(np.mean(exact**2))])
        recorded = hops >= DIGITAL_SILENCE
    else:
        rms = lambda length: librosa.feature.rms(y=exact, frame_length=length, hop_length=512, center=False)[0]
        levels, hops = rms(2048), rms(512)
        recorded = [bool((hops[i : i + 4] >= DIGITAL_SILENCE).all()) for i in range(len(levels))]
    levels = levels[recorded]
    return dbfs(np.percentile(levels, 10)) if len(levels) else None


def measure(path):
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    exact = samples.astype(np.float64)
    mono = librosa.to_mono(samples.T)
    _, (start, end) = librosa.effects.trim(mono, top_db=60)
    if not np.any(mono):
        start = end = 0
    means = exact.mean(axis=0)
    full = np.abs(samples) >= np.float32(FULL_SCALE)
    return {
        "file": path.name,
        "sample_rate_hz": rate,
        "channels": samples.shape[1],
        "duration_s": len(samples) / rate,
        "peak_dbfs": dbfs(np.abs(exact).max()),
        "rms_dbfs": dbfs(np.sqrt(np.mean(exact**2))),
        "clipped_samples": int(full.sum()),
        "clipped_runs": sum(runs(full[:, channel]) for channel in range(samples.shape[1])),
        "dc_offset": float(means[np.abs(means).argmax()]),
        "leading_silence_s": int(start) / rate,
        "trailing_silence_s": (len(mono) - int(end)) / rate,
        "noise_floor_dbfs": noise_floor(mono),
    }


def main():
    if len(sys.argv) > 1:
        paths = sorted((pathlib.Path(sys.argv[1]) / "audio").iterdir())
        json.dump([measure(path) for path in paths], sys.stdout)
        return
    measured = [measure(path) for path in sorted((HERE / "signals").iterdir())]
    (HERE / "quality.json").write_text("[\n" + ",\n".join(json.dumps(one) for one in measured) + "\n]\n")


if __name__ == "__main__":
    main()
