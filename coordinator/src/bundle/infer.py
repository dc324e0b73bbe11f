#!/usr/bin/env python3
"""Waveform to label with the bundle that this script lies in: what `coordinator predict` does, in Python.

    pip install librosa onnxruntime soundfile
    python infer.py clip.wav ...      # file, label and probability on a line each
    python infer.py --check           # are features and logits those of golden/?
"""

import argparse
import json
import sys
from pathlib import Path

import librosa
import numpy as np
import onnxruntime
import soundfile

BUNDLE = Path(__file__).resolve().parent


def waveform(path, spec):
    """One channel at the front end's rate, trimmed, peak-normalised and of the fixed length."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    samples = samples.mean(axis=1)
    if rate != spec["sample_rate_hz"]:
        samples = librosa.resample(samples, orig_sr=rate, target_sr=spec["sample_rate_hz"])
    if not np.any(samples):
        raise ValueError("every sample is zero")
    if spec["trim_top_db"] != "none":
        samples, _ = librosa.effects.trim(samples, top_db=spec["trim_top_db"], frame_length=2048, hop_length=512)
    if spec["peak_normalise"]:
        samples = samples / np.abs(samples).max()
    length = round(spec["duration_s"] * spec["sample_rate_hz"])
    if spec["length"] == "tile":
        samples = np.tile(samples, -(-length // len(samples)))
    return librosa.util.fix_length(samples, size=length)


def features(path, spec, n_mfcc):
    """What the model reads, (n_mfcc, frames)."""
    return librosa.feature.mfcc(
        y=waveform(path, spec),
        sr=spec["sample_rate_hz"],
        n_mfcc=n_mfcc,
        n_fft=spec["n_fft"],
        hop_length=spec["hop_length"],
        n_mels=spec["n_mels"],
        htk=spec["htk"],
    ).astype(np.float32)


def load(file, spec):
    """A model that reads features of this front end."""
    model = onnxruntime.InferenceSession(str(BUNDLE / file), providers=["CPUExecutionProvider"])
    if json.loads(model.get_modelmeta().custom_metadata_map["earshot.front_end"]) != spec:
        sys.exit(f"{file} reads features of another front end than front_end.json's")
    return model


def logits(model, matrix):
    return model.run(["logits"], {"features": matrix[np.newaxis, np.newaxis]})[0][0]


def check(spec):
    """Holds features and logits against the golden files; whether all are within their tolerances."""
    golden = json.loads((BUNDLE / "golden/golden.json").read_text())
    models = {file: load(file, spec) for file in golden["logits_tolerance"]}
    good = True

    def compare(file, found, expected, tolerance):
        nonlocal good
        difference = float(np.abs(found - expected).max())
        good &= difference <= tolerance
        print(f"{file}\t{difference:.1e} of {tolerance:.1e} allowed\t{'ok' if difference <= tolerance else 'MISSED'}")

    for clip in golden["clips"]:
        expected = np.load(BUNDLE / clip["features"])
        found = features(BUNDLE / clip["waveform"], spec, len(expected))
        compare(clip["features"], found, expected, golden["features_tolerance"])
        for file, recorded in clip["logits"].items():
            wanted = np.load(BUNDLE / recorded)
            tolerance = golden["logits_tolerance"][file] * float(np.abs(wanted).max())
            compare(recorded, logits(models[file], expected), wanted, tolerance)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--model", help="file of the bundle [default: the one that is shipped]")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    spec = json.loads((BUNDLE / "front_end.json").read_text())
    good = check(spec) if args.check else True
    if args.clips:
        labels = (BUNDLE / "labels.txt").read_text(encoding="utf-8").splitlines()
        shipped = json.loads((BUNDLE / "provenance.json").read_text())["shipped"]["file"]
        model = load(args.model or shipped, spec)
        n_mfcc = model.get_inputs()[0].shape[2]
        for path in args.clips:
            try:
                scores = logits(model, features(path, spec, n_mfcc))
            except Exception as error:
                print(f"{path}: {error}", file=sys.stderr)
                good = False
                continue
            probabilities = np.exp(scores - scores.max())
            probabilities /= probabilities.sum()
            best = int(probabilities.argmax())
            print(f"{path}\t{labels[best]}\t{probabilities[best]:.4f}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
