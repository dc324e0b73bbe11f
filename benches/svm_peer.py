"""The baseline of `benches/accuracy.py`: a support vector machine on statistics of MFCCs, fold by fold.

    python svm_peer.py DATASET FEATURES

FEATURES has `{clip}_mfcc.npy`, as `coordinator data prepare` writes them. A clip is the mean and the deviation of each of its 13
coefficients and the deviation of their differences from frame to frame. Prints the accuracy on each fold of a machine
that was trained on the others, as a JSON object.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


def statistics(mfcc: np.ndarray) -> np.ndarray:
    steps = np.diff(mfcc, axis=1) if mfcc.shape[1] > 1 else np.zeros_like(mfcc)
    return np.concatenate([mfcc.mean(axis=1), mfcc.std(axis=1), steps.std(axis=1)])


def main() -> None:
    dataset, features = map(Path, sys.argv[1:3])
    with (dataset / "meta" / "esc50.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    x = np.array([statistics(np.load(features / f"{Path(row['filename']).stem}_mfcc.npy")) for row in rows])
    y = np.array([int(row["target"]) for row in rows])
    folds = np.array([int(row["fold"]) for row in rows])
    accuracies = {}
    for fold in sorted(set(folds.tolist())):
        machine = make_pipeline(StandardScaler(), SVC()).fit(x[folds != fold], y[folds != fold])
        accuracies[str(fold)] = machine.score(x[folds == fold], y[folds == fold])
    print(json.dumps(accuracies))


if __name__ == "__main__":
    main()
