"""librosa's side of `benches/front_end.py`: the same steps on the same clips, timed.

    python librosa_peer.py stages DATASET --clips 100 --rounds 3     one thread, milliseconds a clip of each step
    python librosa_peer.py prepare DATASET --out DIR --processes 4   everything `coordinator data prepare` makes, in seconds
    python librosa_peer.py transcode DATASET --out DIR --format wav  the same clips in another format

Prints one JSON object. Imports and first calls, which compile, are done before the clock starts.
"""

import argparse
import csv
import json
import multiprocessing
import shutil
import time
from pathlib import Path

import librosa
import numpy as np
import soundfile

RATE_HZ = 44_100
SAMPLES = 5 * RATE_HZ


def clips(dataset: Path) -> list[Path]:
    """The dataset's recordings, in the order of its list."""
    with (dataset / "meta" / "esc50.csv").open(encoding="utf-8") as file:
        return [dataset / "audio" / row["filename"] for row in csv.DictReader(file)]


# --- One thread, step by step ---


def stages_of_clip(path: Path) -> dict[str, float]:
    seconds: dict[str, float] = {}

    def timed(name, call):
        started = time.perf_counter()
        made = call()
        seconds[name] = time.perf_counter() - started
        return made

    samples = timed("load", lambda: librosa.load(path, sr=RATE_HZ, mono=True)[0])
    clean = timed("trim", lambda: librosa.util.normalize(librosa.effects.trim(samples, top_db=60)[0]))
    fixed = librosa.util.fix_length(clean, size=SAMPLES)
    timed("mfcc", lambda: librosa.feature.mfcc(y=fixed, sr=RATE_HZ, n_mfcc=13))
    timed("spectrogram", lambda: spectrogram_db(fixed))
    timed("chain", lambda: features_of_file(path))
    return seconds


def spectrogram_db(samples: np.ndarray) -> np.ndarray:
    return librosa.power_to_db(np.abs(librosa.stft(samples)) ** 2)


def features_of_file(path: Path) -> np.ndarray:
    samples, _ = librosa.load(path, sr=RATE_HZ, mono=True)
    clean = librosa.util.normalize(librosa.effects.trim(samples, top_db=60)[0])
    return librosa.feature.mfcc(y=librosa.util.fix_length(clean, size=SAMPLES), sr=RATE_HZ, n_mfcc=13)


def stages(dataset: Path, count: int, rounds: int) -> dict[str, float]:
    paths = clips(dataset)
    chosen = paths[:: max(1, -(-len(paths) // count))]
    stages_of_clip(chosen[0])
    fastest: dict[str, float] = {}
    for _ in range(rounds):
        total: dict[str, float] = {}
        for path in chosen:
            for name, seconds in stages_of_clip(path).items():
                total[name] = total.get(name, 0.0) + seconds
        for name, seconds in total.items():
            fastest[name] = min(seconds, fastest.get(name, seconds))
    return {name: seconds * 1e3 / len(chosen) for name, seconds in fastest.items()}


# --- All cores, everything ---


def prepare_clip(job: tuple[Path, Path]) -> np.ndarray:
    path, out = job
    samples, _ = librosa.load(path, sr=RATE_HZ, mono=True)
    clean = librosa.util.normalize(librosa.effects.trim(samples, top_db=60)[0])
    soundfile.write(out / "audio" / f"{path.stem}.wav", clean, RATE_HZ, subtype="FLOAT")
    np.save(out / "features" / f"{path.stem}_mfcc.npy", librosa.feature.mfcc(y=clean, sr=RATE_HZ, n_mfcc=13))
    np.save(out / "features" / f"{path.stem}_spec.npy", spectrogram_db(clean))
    fixed = librosa.util.fix_length(clean, size=SAMPLES)
    return librosa.feature.mfcc(y=fixed, sr=RATE_HZ, n_mfcc=64)


def prepare(dataset: Path, out: Path, processes: int) -> dict[str, float]:
    paths = clips(dataset)
    for folder in ("audio", "features"):
        (out / folder).mkdir(parents=True)
    prepare_clip((paths[0], out))
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        pool.map(abs, range(processes))
        started = time.perf_counter()
        features = pool.map(prepare_clip, [(path, out) for path in paths], chunksize=4)
        np.save(out / "shard.npy", np.stack(features))
        return {"seconds": time.perf_counter() - started, "clips": len(paths)}


# --- The same clips in another format ---


def transcode(dataset: Path, out: Path, extension: str) -> dict[str, int]:
    (out / "audio").mkdir(parents=True)
    (out / "meta").mkdir()
    listing = dataset / "meta" / "esc50.csv"
    paths = clips(dataset)
    for path in paths:
        samples, rate_hz = soundfile.read(path, dtype="float32")
        soundfile.write(out / "audio" / f"{path.stem}.{extension}", samples, rate_hz, subtype="PCM_16")
    text = listing.read_text(encoding="utf-8")
    for suffix in {path.suffix for path in paths}:
        text = text.replace(f"{suffix},", f".{extension},")
    (out / "meta" / listing.name).write_text(text, encoding="utf-8")
    return {"clips": len(paths)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["stages", "prepare", "transcode"])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--format", default="wav")
    arguments = parser.parse_args()
    if arguments.out:
        shutil.rmtree(arguments.out, ignore_errors=True)
    if arguments.what == "stages":
        result = stages(arguments.dataset, arguments.clips, arguments.rounds)
    elif arguments.what == "prepare":
        result = prepare(arguments.dataset, arguments.out, arguments.processes)
    else:
        result = transcode(arguments.dataset, arguments.out, arguments.format)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
