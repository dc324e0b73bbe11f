"""Makes the golden files beside it: what librosa, soundfile and scikit-learn say of small signals.

    python -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python make.py

Given one or more datasets in ESC-50's layout, it prints instead, as JSON, what librosa says of their real clips; those
numbers stay out of the repository, like the clips. `tests/real_clips.rs` reads them from `$EARSHOT_GOLDEN_CLIPS`:

    venv/bin/python make.py --clips 40 path/to/dataset > clips.json
"""

import argparse
import json
import pathlib
import random
import sys

import librosa
import numpy as np
import soundfile
from sklearn.model_selection import train_test_split

HERE = pathlib.Path(__file__).parent
SIGNALS = HERE / "signals"

# (n_fft, hop_length, n_mels, n_mfcc, htk); the first two for every signal
FRONT_ENDS = [
    (2048, 512, 128, 13, False), (1024, 400, 80, 20, True),
    (2048, 512, 128, 64, False), (2048, 512, 128, 64, True), (1024, 256, 64, 20, False), (1024, 256, 64, 20, True),
    (512, 160, 40, 40, False), (512, 160, 40, 13, True), (4096, 1000, 200, 30, False), (400, 160, 80, 13, True),
]
# (rows, classes, test_size, seed)
SPLITS = [
    (50, 5, 0.2, 42), (97, 4, 0.3, 0), (400, 10, 0.2, 42), (1000, 50, 0.2, 42), (61, 3, 0.1, 7),
    (120, 7, 0.5, 4294967295), (30, 2, 0.5, 3), (77, 6, 0.33, 99), (250, 25, 0.4, 2024), (513, 9, 0.15, 65535),
]
RATES_HZ = [8000, 11025, 22050, 32000, 48000, 96000]
TO_RATES_HZ = [16000, 44100]
TOP_DB = [60, 30, 10]


def times(rate, seconds):
    return np.arange(int(rate * seconds)) / rate


def faded(signal):
    """Without a step at either end: resamplers differ in how they ring there."""
    ramp = np.minimum(1.0, np.arange(len(signal)) / (0.1 * len(signal)))
    return signal * ramp * ramp[::-1]


def chirp(rate, seconds, top_hz):
    t = times(rate, seconds)
    return 0.8 * np.sin(2 * np.pi * (50 * t + (top_hz - 50) * t**2 / (2 * seconds)))


def bursts(rate, seconds):
    """Silence, a decaying noise, near-silence, a quiet hum, silence."""
    noise = np.random.RandomState(7).standard_normal(int(rate * seconds))
    t = times(rate, seconds) / seconds
    envelope = np.where((t > 0.2) & (t < 0.5), np.exp(-(t - 0.2) * 20), 0.0)
    hum = np.where((t > 0.6) & (t < 0.8), 0.01, 1e-5) * np.sin(2 * np.pi * 120 * times(rate, seconds))
    return 0.3 * noise * envelope + hum * (t > 0.1) * (t < 0.9)


def write_signals():
    write = lambda name, y, rate, subtype: soundfile.write(SIGNALS / name, y, rate, subtype=subtype)
    noise = np.random.RandomState(1).standard_normal(4000) * 0.2
    write("chirp_22k.flac", faded(chirp(22050, 0.5, 9000)), 22050, "PCM_16")
    write("chirp_44k.ogg", faded(chirp(44100, 0.5, 9000)), 44100, "VORBIS")
    write("chirp_44k.mp3", faded(chirp(44100, 0.5, 9000)), 44100, "MPEG_LAYER_III")
    write("tone_44k.flac", 0.999 * np.sin(2 * np.pi * 1000 * times(44100, 0.3)), 44100, "PCM_16")
    write("bursts_44k.flac", bursts(44100, 0.6), 44100, "PCM_16")
    write("bursts_8k.wav", bursts(8000, 0.5), 8000, "PCM_16")
    write("noise_16k.wav", noise, 16000, "PCM_U8")
    write("square_44k.flac", np.sign(np.sin(2 * np.pi * 441 * times(44100, 0.2) + 0.1)), 44100, "PCM_16")
    write("dc_44k.flac", np.full(8820, 0.5), 44100, "PCM_16")
    write("silence_44k.flac", np.zeros(8820), 44100, "PCM_16")
    impulse = np.zeros(8820)
    impulse[4000] = 1.0
    write("impulse_44k.flac", impulse, 44100, "PCM_16")
    write("one_sample_44k.wav", [0.5], 44100, "PCM_16")
    write("short_44k.wav", noise[:700], 44100, "FLOAT")
    left_right = np.stack([faded(chirp(48000, 0.1, 5000)), -0.5 * faded(chirp(48000, 0.1, 8000))], axis=1)
    write("stereo_48k.flac", left_right, 48000, "PCM_24")
    surround = np.stack([noise[i * 300 : i * 300 + 1500] for i in range(6)], axis=1)
    write("surround_32k.flac", surround, 32000, "PCM_16")
    write("float_96k.wav", faded(chirp(96000, 0.03, 7000)).astype(np.float32), 96000, "FLOAT")
    write("double_11k.wav", faded(chirp(11025, 0.1, 4000)), 11025, "DOUBLE")


def sampled(y, count):
    """About `count` values, evenly spaced, with their step."""
    step = max(1, len(y) // count)
    return {"length": len(y), "step": step, "values": floats(y[::step])}


def floats(values):
    return [float(f"{value:.7g}") for value in np.asarray(values, dtype=np.float64).ravel()]


def columns(matrix, row_step=1):
    """Three columns and every `row_step`-th row of a matrix, with its full extent."""
    matrix = np.asarray(matrix)
    at = sorted({0, matrix.shape[1] // 3, matrix.shape[1] - 1})
    return {"shape": list(matrix.shape), "columns": at, "row_step": row_step, "values": floats(matrix[::row_step, at])}


def features(y, rate, n_fft, hop_length, n_mels, n_mfcc, htk):
    frame = dict(n_fft=n_fft, hop_length=hop_length)
    spectrum = np.abs(librosa.stft(y, **frame)) ** 2
    mel = librosa.feature.melspectrogram(y=y, sr=rate, n_mels=n_mels, htk=htk, **frame)
    return {
        "n_fft": n_fft,
        "hop_length": hop_length,
        "n_mels": n_mels,
        "n_mfcc": n_mfcc,
        "htk": htk,
        "spectrogram_db": columns(librosa.power_to_db(spectrum), row_step=n_fft // 64 + 1),
        "mel_db": columns(librosa.power_to_db(mel), row_step=5),
        "mfcc": columns(librosa.feature.mfcc(y=y, sr=rate, n_mfcc=n_mfcc, n_mels=n_mels, htk=htk, **frame)),
    }


def of_signal(path):
    y, rate = librosa.load(path, sr=None, mono=True)
    ends = [librosa.effects.trim(y, top_db=top_db)[1] for top_db in TOP_DB]
    to_hz = 22050 if rate != 22050 else 32000
    resampled = librosa.load(path, sr=to_hz, mono=True)[0]
    return {
        "file": path.name,
        "sample_rate_hz": rate,
        "load": sampled(y, 120),
        "resampled": {"to_hz": to_hz, **sampled(resampled, 120)},
        "trim": [{"top_db": top_db, "start": int(a), "end": int(b)} for top_db, (a, b) in zip(TOP_DB, ends)],
        "normalize": sampled(librosa.util.normalize(y), 50),
        "features": [features(y, rate, *front_end) for front_end in front_ends(path.name)],
    }


def front_ends(name):
    """All of them for two signals, two for the others: the files must stay small."""
    return FRONT_ENDS if name in ("chirp_22k.flac", "bursts_44k.flac") else FRONT_ENDS[:2]


def multitone(rate, to_hz):
    """Eight tones up to 0.9 of the lower Nyquist frequency, faded; `tests/golden.rs` has the same formula."""
    t = times(rate, 0.25)
    top_hz = 0.9 * min(rate, to_hz) / 2
    return faded(sum(0.1 * np.sin(2 * np.pi * top_hz * k / 8 * t + k) for k in range(1, 9))).astype(np.float32)


def of_resampling(rate, to_hz):
    resampled = librosa.resample(multitone(rate, to_hz), orig_sr=rate, target_sr=to_hz, res_type="soxr_hq")
    return {"from_hz": rate, "to_hz": to_hz, **sampled(resampled, 150)}


def labels(rows, classes):
    """Uneven classes in no order; `tests/golden.rs` has the same formula."""
    return [(i * i + i // 3) % classes for i in range(rows)]


def of_split(rows, classes, test_size, seed):
    y = labels(rows, classes)
    train, test = train_test_split(range(rows), test_size=test_size, stratify=y, random_state=seed)
    rest, validation = train_test_split(train, test_size=0.25, stratify=[y[i] for i in train], random_state=seed)
    return {
        "rows": rows, "classes": classes, "test_size": test_size, "seed": seed,
        "train": [int(i) for i in train], "test": [int(i) for i in test],
        "then_train": [int(i) for i in rest], "then_validation": [int(i) for i in validation],
    }


def of_clip(path, sample_rate_hz=44100, frames=431):
    """The default chain on a real clip, at its own length, and the fixed-length MFCC of a shard."""
    y = librosa.load(path, sr=sample_rate_hz, mono=True)[0]
    trimmed, (start, end) = librosa.effects.trim(y, top_db=60)
    clean = librosa.util.normalize(trimmed)
    fixed = librosa.util.fix_length(clean, size=5 * sample_rate_hz)
    spectrum = librosa.power_to_db(np.abs(librosa.stft(clean)) ** 2)
    return {
        "path": str(path.resolve()), "samples": len(y), "start": int(start), "end": int(end),
        "mfcc": floats(librosa.feature.mfcc(y=clean, sr=sample_rate_hz, n_mfcc=13)),
        "spectrogram_db": floats(spectrum[::7, ::5]),
        "fixed_mfcc": floats(librosa.feature.mfcc(y=fixed, sr=sample_rate_hz, n_mfcc=64)[:, ::3]),
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--clips", type=int, default=40, help="real clips to take from each dataset")
    arguments.add_argument("datasets", nargs="*", type=pathlib.Path)
    arguments = arguments.parse_args()
    if arguments.datasets:
        for root in arguments.datasets:
            paths = sorted((root / "audio").iterdir())
            chosen = random.Random(0).sample(paths, min(arguments.clips, len(paths)))
            json.dump([of_clip(path) for path in sorted(chosen)], sys.stdout)
        return
    SIGNALS.mkdir(exist_ok=True)
    write_signals()
    signals = [of_signal(path) for path in sorted(SIGNALS.iterdir())]
    splits = [of_split(*case) for case in SPLITS]
    resampled = [of_resampling(rate, to_hz) for rate in RATES_HZ for to_hz in TO_RATES_HZ]
    for name, cases in [("signals", signals), ("splits", splits), ("resampled", resampled)]:
        (HERE / f"{name}.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
