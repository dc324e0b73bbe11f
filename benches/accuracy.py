"""What a search finds on real clips: test accuracy over the official folds, beside two baselines.

    python3 benches/accuracy.py --data DIR [--sweep FILE] [--folds 1,2,3,4,5]

Nested: each fold in turn tests and is seen by nothing else. `sweeps/esc10.toml` searches on the other four, two of which
validate; the best trial is trained once more on all four, exported, and the exported files are scored on the fold that tests.
The baselines get the same five test folds: the reference AudioCNN, trained the same way, and a support vector machine on
means and deviations of MFCCs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from run import COORDINATOR, ROOT, WORK, choose_data, describe_machine, peer_python, run, run_sweep

REQUIREMENTS = ROOT / "data" / "tests" / "golden" / "requirements.txt"
PEER = ROOT / "benches" / "svm_peer.py"
FOLDS = (1, 2, 3, 4, 5)
VALIDATION_FOLDS = 2

# The reference AudioCNN and front end: what a sweep trains that names nothing.
REFERENCE = """
name = "reference"
[split]
kind = "folds"
validation = [1]
[schedule]
epochs = 50
patience = 10
refit = true
"""


@dataclass(frozen=True)
class Found:
    """What one sweep found, scored on the fold that nothing of it saw."""

    float_accuracy: float
    int8_accuracy: float
    validation_accuracy: float
    seconds: float
    point: dict[str, object]


def search(sweep: Path, data: Path, processed: Path, test: int, folder: Path) -> Found:
    folder.mkdir(parents=True)
    # The folds after the one that tests, so that each validates as often as the others.
    validation = [(test + step - 1) % len(FOLDS) + 1 for step in range(1, VALIDATION_FOLDS + 1)]
    settings = {
        "data.root": data,
        "data.processed": processed,
        "split.validation": validation,
        "split.test": [test],
    }
    seconds, database = run_sweep(sweep, settings, folder)
    bundle = folder / "champion"
    run(COORDINATOR, "export", "--db", database, "--processed", processed, "--out", bundle)
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    best = json.loads(run(COORDINATOR, "leaderboard", "--db", database, "--top", "1", "--format", "json"))["rows"][0]
    return Found(
        float_accuracy=report["float"]["test"]["accuracy"],
        int8_accuracy=report["int8"]["test"]["accuracy"],
        validation_accuracy=best["accuracy"],
        seconds=seconds,
        point=report["point"],
    )


def row(name: str, accuracies: list[float]) -> str:
    percent = [100 * accuracy for accuracy in accuracies]
    spread = statistics.stdev(percent) if len(percent) > 1 else 0.0
    folds = " | ".join(f"{accuracy:.1f}" for accuracy in percent)
    return f"| {name} | {folds} | **{statistics.mean(percent):.1f}** | {spread:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="recordings in ESC-50's layout, with five folds")
    parser.add_argument("--sweep", type=Path, default=ROOT / "sweeps" / "esc10.toml")
    parser.add_argument("--folds", default="1,2,3,4,5", help="folds that test, in turn (default all five)")
    arguments = parser.parse_args()
    tests = [int(fold) for fold in arguments.folds.split(",")]
    if any(fold not in FOLDS for fold in tests):
        sys.exit(f"accuracy: folds are {FOLDS}")

    data = choose_data(arguments.data)
    work = WORK / "accuracy"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    reference = work / "reference.toml"
    reference.write_text(REFERENCE, encoding="utf-8")

    found: dict[str, list[Found]] = {"search": [], "reference": []}
    for name, sweep in (("reference", reference), ("search", arguments.sweep.resolve())):
        for test in tests:
            one = search(sweep, data, work / f"{name}-processed", test, work / f"{name}-{test}")
            found[name].append(one)
            print(
                f"{name}, fold {test} tests: {100 * one.float_accuracy:.1f} %, int8 {100 * one.int8_accuracy:.1f} %, "
                f"validation {100 * one.validation_accuracy:.1f} %, {one.seconds:.0f} s, {json.dumps(one.point)}",
                flush=True,
            )

    # The reference's folder has the exported MFCCs of the default front end.
    python = peer_python("bench-librosa", REQUIREMENTS)
    svm = json.loads(run(python, PEER, data, work / "reference-processed" / "features"))
    seconds = sum(one.seconds for one in found["search"])
    print(f"\ntest accuracy in %, {data.name}, {describe_machine()}; the searches took {seconds / 60:.1f} minutes\n")
    print("| model | " + " | ".join(f"fold {test}" for test in tests) + " | mean | deviation |")
    print("|---" * (len(tests) + 3) + "|")
    print(row(f"found by {arguments.sweep.name}, float", [one.float_accuracy for one in found["search"]]))
    print(row(f"found by {arguments.sweep.name}, int8", [one.int8_accuracy for one in found["search"]]))
    print(row("reference AudioCNN, float", [one.float_accuracy for one in found["reference"]]))
    print(row("SVM on MFCC statistics", [svm[str(test)] for test in tests]))


if __name__ == "__main__":
    main()
