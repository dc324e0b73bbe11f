"""Optuna's samplers on the functions of `coordinator/benches/search.rs`: regrets at its marks, and proposal times.

    python optuna_search.py --seeds 5 --keep searches.jsonl [--processes N]

Called by `search.py`, in the peers' environment. Prints one JSON object of the shape that the other side prints. The Gaussian
process takes its time, so every search is kept as a line of a file once it is done, and is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import statistics
import time
import warnings
from pathlib import Path

import optuna
import torch

A = ((10, 3, 17, 3.5, 1.7, 8), (0.05, 10, 17, 0.1, 8, 14), (3, 3.5, 1.7, 10, 17, 8), (17, 8, 0.05, 10, 0.1, 14))
P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)
BRANIN = ((-5.0, 10.0), (0.0, 15.0))
MASK = (1 << 64) - 1
# Trials after which a search is looked at, and trials under way at a time.
MARKS = (25, 50, 100)
WIDTHS = (1, 8)


def branin(trial: optuna.Trial) -> float:
    x, y = cube(trial, BRANIN)
    bowl = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return bowl**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def hartmann_6(trial: optuna.Trial) -> float:
    x = cube(trial, ((0.0, 1.0),) * 6)
    hills = [math.exp(-sum(a * (x - p) ** 2 for a, x, p in zip(A[row], x, P[row]))) for row in range(4)]
    return -sum(height * hill for height, hill in zip((1.0, 1.2, 3.0, 3.2), hills))


def ackley_5(trial: optuna.Trial) -> float:
    x = cube(trial, ((-32.768, 32.768),) * 5)
    square, wave = sum(x * x for x in x) / 5, sum(math.cos(2 * math.pi * x) for x in x) / 5
    return -20 * math.exp(-0.2 * math.sqrt(square)) - math.exp(wave) + 20 + math.e


def levy_4(trial: optuna.Trial) -> float:
    w = [1 + (x - 1) / 4 for x in cube(trial, ((-10.0, 10.0),) * 4)]
    inner = sum((w - 1) ** 2 * (1 + 10 * math.sin(math.pi * w + 1) ** 2) for w in w[:3])
    return math.sin(math.pi * w[0]) ** 2 + inner + (w[3] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[3]) ** 2)


def mixed(trial: optuna.Trial) -> float:
    way = trial.suggest_categorical("lr_scheduler", ["constant", "cosine", "one_cycle"])
    own = 0.5
    if way == "cosine":
        own = 0.1 * (math.log10(trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)) + 3) ** 2
    elif way == "one_cycle":
        own = 0.2 + ((trial.suggest_int("fc_units", 1, 64) - 40) / 64) ** 2
    return (trial.suggest_float("dropout", 0.0, 1.0) - 0.3) ** 2 + own


def cube(trial: optuna.Trial, ends: tuple) -> list[float]:
    return [trial.suggest_float(f"x{i}", low, high) for i, (low, high) in enumerate(ends)]


# Function, least value, standard deviation of the noise.
FUNCTIONS = {
    "branin": (branin, 0.397887, 0.0),
    "hartmann_6": (hartmann_6, -3.32237, 0.0),
    "ackley_5": (ackley_5, 0.0, 0.0),
    "levy_4": (levy_4, 0.0, 0.0),
    "mixed": (mixed, 0.0, 0.0),
    "noisy_branin": (branin, 0.397887, 2.0),
}


def sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    return optuna.samplers.GPSampler(seed=seed)


def noise(seed: int, trial: int) -> float:
    """The same numbers as the other side's."""
    state = (seed * 0x9E3779B97F4A7C15 & MASK) ^ (trial * 0xD1B54A32D192ED03 & MASK)
    total = 0.0
    for _ in range(12):
        state = state + 0x9E3779B97F4A7C15 & MASK
        mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & MASK
        total += ((mixed ^ mixed >> 31) >> 11) / (1 << 53)
    return total - 6


def regrets(function: str, name: str, seed: int, width: int) -> list[float]:
    """At each mark, with `width` trials under way of which the oldest ends first."""
    value, least, deviation = FUNCTIONS[function]
    study = optuna.create_study(sampler=sampler(name, seed))
    asked: list[tuple[optuna.Trial, float, float]] = []
    found = []
    for ended in range(MARKS[-1]):
        while len(asked) < min(MARKS[-1], ended + width):
            trial = study.ask()
            true = value(trial)
            asked.append((trial, true - deviation * noise(seed, len(asked)) if deviation else true, true))
        study.tell(asked[ended][0], asked[ended][1])
        if ended + 1 in MARKS:
            found.append(min((shown, true) for _, shown, true in asked[: ended + 1])[1] - least)
    return found


def thinking_ms(name: str, trials: int) -> float:
    """The median of five proposals after so many trials on Hartmann's function."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(hartmann_6, n_trials=trials)
    study.sampler = sampler(name, 0)
    times = []
    for _ in range(5):
        started = time.monotonic()
        trial = study.ask()
        hartmann_6(trial)
        times.append((time.monotonic() - started) * 1e3)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return statistics.median(times)


def search(task: tuple[str, str, int, int]) -> tuple[tuple[str, str, int, int], list[float]]:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    return task, regrets(*task)


def kept(file: Path) -> dict[tuple[str, str, int, int], list[float]]:
    """Searches that were done before by the same version, by function, sampler, seed and width."""
    if not file.is_file():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {tuple(line["task"]): line["regrets"] for line in lines if line["optuna"] == optuna.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", type=Path, required=True, help="file of the searches that are done")
    parser.add_argument("--processes", type=int, help="searches at a time (default as many as there are cores)")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    names = ("random", "tpe", "gp")
    found = kept(arguments.keep)
    # A seed after the other, so that one cut short leaves whole ones.
    searches = [
        (function, name, seed, width)
        for seed, function, name, width in itertools.product(range(arguments.seeds), FUNCTIONS, names, WIDTHS)
    ]
    left = [task for task in searches if task not in found]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool, arguments.keep.open("a") as file:
        for task, of_seed in pool.imap_unordered(search, left):
            print(json.dumps({"optuna": optuna.__version__, "task": task, "regrets": of_seed}), file=file, flush=True)
            found[task] = of_seed
    regrets_of: dict[str, list[list[float]]] = {}
    for function, name, seed, width in searches:
        regrets_of.setdefault(f"{function} {name} {width}", []).append(found[function, name, seed, width])
    thinking = {f"{name} {trials}": thinking_ms(name, trials) for name in names for trials in (100, 500)}
    print(json.dumps({"regrets": regrets_of, "thinking_ms": thinking}))


if __name__ == "__main__":
    main()
