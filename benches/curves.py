"""Learning curves of every point of `curves.toml`, recorded once: the table `benches/data/curves.json`.

    python3 benches/curves.py --data DIR            trains them all, which takes some ten minutes of a core
    python3 benches/curves.py --db sweep.redb       reads them from a sweep that has ended

A row is a trial: the numbers of its values in the lists of `space`, and after each epoch the validation accuracy in clips of
`clips` and the validation loss in thousandths; a trial that failed has no epochs.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from run import COORDINATOR, ROOT, WORK, choose_data, run, run_sweep

SWEEP = ROOT / "benches" / "curves.toml"
TABLE = ROOT / "benches" / "data" / "curves.json"
# Clips that validate: accuracies are whole parts of them.
CLIPS = 160


def table(coordinator: Path, database: Path) -> dict[str, object]:
    """Of a sweep that has ended, in the order of its trials."""
    shown = ("--db", database, "--format", "json")
    total = json.loads(run(coordinator, "status", *shown))["trials_total"]
    trials = [json.loads(run(coordinator, "trial", "show", str(number), *shown)) for number in range(total)]
    space: dict[str, list[object]] = {}
    for trial in trials:
        for name, value in trial["point"].items():
            values = space.setdefault(name, [])
            if value not in values:
                values.append(value)
    for values in space.values():
        values.sort(key=lambda value: (len(value), value) if isinstance(value, (list, str)) else (0, value))
    rows = []
    for trial in trials:
        epochs = trial["runs"][0]["epochs"] if trial["state"] == "completed" else []
        clips = [round(epoch["accuracy"] * CLIPS) for epoch in epochs]
        if any(abs(epoch["accuracy"] * CLIPS - count) > 1e-6 for epoch, count in zip(epochs, clips)):
            raise SystemExit(f"curves: accuracies of trial {trial['trial']} are no parts of {CLIPS} clips")
        point = [space[name].index(value) for name, value in trial["point"].items()]
        rows.append([point, clips, [round(1000 * epoch["loss"]) for epoch in epochs]])
    return {"clips": CLIPS, "space": space, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="recordings in ESC-50's layout")
    parser.add_argument("--db", type=Path, help="the sweep's database, where it has been trained already")
    parser.add_argument("--coordinator", type=Path, default=COORDINATOR, help="the binary (default: the release build)")
    arguments = parser.parse_args()
    database = arguments.db
    if database is None:
        folder = WORK / "curves"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = {"data.root": choose_data(arguments.data), "data.processed": folder / "processed"}
        _, database = run_sweep(SWEEP, settings, folder)
    found = table(arguments.coordinator, database)
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in found["rows"])
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(
        f'{{"clips":{found["clips"]},"space":{json.dumps(found["space"])},"rows":[\n{lines}\n]}}\n', encoding="utf-8"
    )
    print(f"{len(found['rows'])} curves in {TABLE}")


if __name__ == "__main__":
    main()
