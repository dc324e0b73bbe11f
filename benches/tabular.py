"""A part of `make bench`: our searches against Optuna's on learning curves that were recorded once, in simulated time.

    python3 benches/tabular.py [--seeds N]

Both sides look up what training a configuration gives in `benches/data/curves.json`, with 1, 8 and 64 workers. An epoch takes time in
proportion to its model's multiplications, and the mean configuration's is the unit. A search is there when a trial's
accuracy, that of its epoch of least validation loss so far, is within so many points of the best in the table. The tables show medians
over seeds with 95 % confidence intervals; ∞ where half of the searches never came there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics

from run import CACHE, REQUIREMENTS, ROOT, WORK, describe_machine, peer_python, run

PEER = ROOT / "benches" / "optuna_tabular.py"
KEPT = CACHE / "optuna-tabular.jsonl"
WORKERS = (1, 8, 64)
RESAMPLES = 2000
# Optuna's methods, by the names under which they are shown.
THEIRS = {"tpe": "Optuna's TPESampler", "tpe+hyperband": "Optuna's TPESampler + HyperbandPruner"}

# Of a method and so many workers: for each seed, for each distance from the best, when.
Times = dict[str, list[list[int | None]]]


def interval(values: list[float]) -> tuple[float, float]:
    """The bootstrap's 95 % confidence interval of the median."""
    dice = random.Random(0)
    medians = sorted(median(dice.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def median(values: list[float]) -> float:
    low, high = statistics.median_low(values), statistics.median_high(values)
    return math.inf if math.inf in (low, high) else (low + high) / 2


def shown(epochs: float) -> str:
    return "∞" if math.isinf(epochs) else f"{epochs:.0f}"


def print_table(times: Times, table: dict, within: int) -> None:
    methods = list(dict.fromkeys(key.split("|")[0] for key in times))
    print(
        f"\nwithin {table['within'][within]:g} points of {100 * table['best'] / table['clips']:.1f} %: {table['good'][within]} "
        f"of {len(table['epochs_ms'])} configurations in the end, {table['ever'][within]} at some epoch\n"
    )
    print("| method |" + "".join(f" {workers} worker{'s' * (workers > 1)} |" for workers in WORKERS))
    print("|---" * (1 + len(WORKERS)) + "|")
    for method in methods:
        cells = []
        for workers in WORKERS:
            reached = [of_seed[within] for of_seed in times[f"{method}|{workers}"]]
            epochs = [math.inf if ms is None else ms / table["mean_epoch_ms"] for ms in reached]
            low, high = interval(epochs)
            cells.append(f"{shown(median(epochs))} ({shown(low)}–{shown(high)})")
        print(f"| {method} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="searches of each kind (default 5)")
    arguments = parser.parse_args()
    seeds = ["--seeds", str(arguments.seeds)]
    bench = ["cargo", "bench", "--quiet", "--locked", "-p", "coordinator", "--bench", "tabular", "--"]
    ours = json.loads(run(*bench, *seeds, "--format", "json").splitlines()[-1])
    WORK.mkdir(parents=True, exist_ok=True)
    told = WORK / "table.json"
    told.write_text(json.dumps(ours["table"]), encoding="utf-8")
    python = peer_python("bench-venv", REQUIREMENTS)
    theirs = json.loads(run(python, PEER, *seeds, "--table", told, "--keep", KEPT).splitlines()[-1])

    times: Times = ours["times"]
    for key, of_seeds in theirs["times"].items():
        method, workers = key.split("|")
        times[f"{THEIRS[method]}|{workers}"] = of_seeds

    print(f"\n{describe_machine()}; {arguments.seeds} seeds")
    for within in range(len(ours["table"]["within"])):
        print_table(times, ours["table"], within)


if __name__ == "__main__":
    main()
