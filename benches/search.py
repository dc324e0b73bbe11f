"""A part of `make bench`: our searches against Optuna's samplers on functions whose least value is known.

    python3 benches/search.py [--seeds N]

Both sides see the same functions and, where there is noise, the same noise. A search's regret is how far the point that looked best
is above the least value. The tables show medians over seeds with 95 % confidence intervals, and the mean rank of each
method among all of them, over functions and seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics

from run import CACHE, REQUIREMENTS, ROOT, describe_machine, peer_python, run

PEER = ROOT / "benches" / "optuna_search.py"
# Optuna's searches that are done. Its Gaussian process takes an hour of a core for twenty seeds, so none is done twice.
KEPT = CACHE / "optuna-search.jsonl"
# Our methods and theirs, by the names under which they are shown.
OURS = {"random": "random", "sobol": "sobol", "tpe": "tpe", "bayes": "bayes"}
THEIRS = {"random": "RandomSampler", "tpe": "TPESampler", "gp": "GPSampler"}
MARKS = (25, 50, 100)
WIDTHS = (1, 8)
RESAMPLES = 2000

Regrets = dict[str, dict[str, list[list[float]]]]


def named(side: dict[str, list[list[float]]], names: dict[str, str], width: int) -> Regrets:
    """Regrets of one side by function, then by shown name: a list of marks for each seed."""
    found: Regrets = {}
    for key, of_seeds in side.items():
        function, method, at_a_time = key.split()
        if int(at_a_time) == width:
            found.setdefault(function, {})[names[method]] = of_seeds
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """The bootstrap's 95 % confidence interval of the median."""
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def mean_ranks(regrets: Regrets, mark: int) -> dict[str, float]:
    """Of each method, 1 the best, equal ones sharing their ranks."""
    ranks: dict[str, list[float]] = {}
    for methods in regrets.values():
        seeds = min(len(of_seeds) for of_seeds in methods.values())
        for seed in range(seeds):
            values = {name: of_seeds[seed][mark] for name, of_seeds in methods.items()}
            for name, value in values.items():
                below = sum(other < value for other in values.values())
                equal = sum(other == value for other in values.values())
                ranks.setdefault(name, []).append(below + (equal + 1) / 2)
    return {name: statistics.mean(found) for name, found in ranks.items()}


def print_tables(ours: dict, theirs: dict, width: int) -> None:
    regrets = named(ours["regrets"], OURS, width)
    for function, methods in named(theirs["regrets"], THEIRS, width).items():
        regrets[function] |= methods
    names = [*OURS.values(), *THEIRS.values()]
    what = "one trial at a time" if width == 1 else f"{width} trials under way"
    print(f"\n{what}: regret after {MARKS[-1]} trials, median (95 % of it)\n")
    print(f"| function | {' | '.join(names)} |")
    print("|---" * (1 + len(names)) + "|")
    for function in theirs["order"]:
        cells = []
        for name in names:
            values = [of_seed[-1] for of_seed in regrets[function][name]]
            low, high = interval(values)
            cells.append(f"{statistics.median(values):.3g} ({low:.2g}–{high:.2g})")
        print(f"| {function} | {' | '.join(cells)} |")
    print(f"\n{what}: mean rank\n")
    print(f"| after | {' | '.join(names)} |")
    print("|---" * (1 + len(names)) + "|")
    for mark, trials in enumerate(MARKS):
        ranks = mean_ranks(regrets, mark)
        print(f"| {trials} | {' | '.join(f'{ranks[name]:.2f}' for name in names)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="searches of each kind (default 5)")
    arguments = parser.parse_args()
    flags = ["--seeds", str(arguments.seeds)]
    bench = ["cargo", "bench", "--quiet", "--locked", "-p", "coordinator", "--bench", "search", "--"]
    ours = json.loads(run(*bench, *flags, "--format", "json").splitlines()[-1])
    theirs = json.loads(run(peer_python("bench-venv", REQUIREMENTS), PEER, *flags, "--keep", KEPT).splitlines()[-1])
    theirs["order"] = list(dict.fromkeys(key.split()[0] for key in theirs["regrets"]))

    print(f"\n{describe_machine()}; {arguments.seeds} seeds")
    for width in WIDTHS:
        print_tables(ours, theirs, width)
    print("\n| proposal after | ms |\n|---|---|")
    for side, label in ((ours, "ours"), (theirs, "Optuna's")):
        for key, ms in side["thinking_ms"].items():
            name, trials = key.split()
            print(f"| {trials} trials, {label} {name} | {ms:.2f} |")


if __name__ == "__main__":
    main()
