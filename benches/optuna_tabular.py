"""Optuna's TPE, alone and with its Hyperband pruner, on the table of learning curves: when they come within so many points of the best.

    python optuna_tabular.py --seeds 20 --table table.json --keep searches.jsonl [--processes N]

Called by `tabular.py`, in the peers' environment, with what the other side told of the table: what an epoch of each configuration
takes, and how many clips are enough. Time is simulated as on the other side: workers of one slot, each of which asks, reports
an epoch when it is over, is told whether to prune, and asks again; what happens at the same time happens in the workers' order.
Every search is kept as a line of a file once it is done, and is not done again.

What could be argued either way is settled for Optuna. A configuration that it proposes again after it was trained to its end is told
what is known of it, and takes no time.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import math
import multiprocessing
import warnings
from pathlib import Path

import optuna

TABLE = Path(__file__).resolve().parent / "data" / "curves.json"
WORKERS = (1, 8, 64)
EPOCHS = 27
# What is known and is proposed so often in a row is trained once more, so that time goes on.
REPEATS_MAX = 3
# This part of the epochs of the whole table, and a search counts as one that never came there.
TABLE_PART_MAX = 0.5
METHODS = ("tpe", "tpe+hyperband")


class Row:
    """A configuration: its numbers, its clips after each epoch of the weights of least loss so far, and what an epoch takes."""

    def __init__(self, numbers: list[int], clips: list[int], losses: list[int], epoch_ms: int) -> None:
        self.numbers = tuple(numbers)
        self.epoch_ms = epoch_ms
        self.kept: list[int] = []
        least = math.inf
        for count, loss in zip(clips, losses):
            if loss < least:
                least, kept = loss, count
            self.kept.append(kept)


class Table:
    def __init__(self, told: dict) -> None:
        written = json.loads(TABLE.read_text(encoding="utf-8"))
        self.space: dict[str, list] = written["space"]
        self.clips: int = written["clips"]
        self.enough: list[int] = told["enough"]
        # The other side counts points as its grid does.
        by_point = {tuple(point): epoch_ms for point, epoch_ms in told["epochs_ms"]}
        rows = [Row(numbers, clips, losses, by_point[tuple(numbers)]) for numbers, clips, losses in written["rows"]]
        self.rows = {row.numbers: row for row in rows}

    def suggest(self, trial: optuna.Trial) -> Row:
        numbers = []
        for name, values in self.space.items():
            if len(values) == 1:
                numbers.append(0)
            elif name == "dropout":
                # The one range with steps; the others are choices on both sides.
                value = trial.suggest_float(name, values[0], values[-1], step=values[1])
                numbers.append(min(range(len(values)), key=lambda number: abs(values[number] - value)))
            else:
                numbers.append(trial.suggest_categorical(name, list(range(len(values)))))
        return self.rows[tuple(numbers)]


def study(name: str, seed: int) -> optuna.Study:
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if name == "tpe+hyperband":
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=EPOCHS, reduction_factor=3)
    return optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)


class Search:
    """A study in simulated time."""

    def __init__(self, table: Table, name: str, seed: int, workers: int) -> None:
        self.table = table
        self.study = study(name, seed)
        self.workers = workers
        self.known: set[tuple[int, ...]] = set()
        # When each worker's epoch is over: time, worker, trial, its row, epochs done.
        self.ends: list[tuple[int, int, optuna.Trial, Row, int]] = []
        self.reached: list[int | None] = [None] * len(table.enough)

    def run(self) -> list[int | None]:
        whole = EPOCHS * sum(row.epoch_ms for row in self.table.rows.values())
        last = TABLE_PART_MAX * whole / self.workers
        for worker in range(self.workers):
            self.ask(0, worker)
        while self.reached[0] is None and self.ends[0][0] <= last:
            now, worker, trial, row, done = heapq.heappop(self.ends)
            self.end_epoch(now, worker, trial, row, done)
        return self.reached

    def ask(self, now: int, worker: int) -> None:
        trial = self.study.ask()
        row = self.table.suggest(trial)
        for _ in range(REPEATS_MAX):
            if row.numbers not in self.known:
                break
            self.tell(trial, row)
            trial = self.study.ask()
            row = self.table.suggest(trial)
        heapq.heappush(self.ends, (now + row.epoch_ms, worker, trial, row, 0))

    def end_epoch(self, now: int, worker: int, trial: optuna.Trial, row: Row, done: int) -> None:
        if not row.kept:
            self.known.add(row.numbers)
            self.tell(trial, row)
            return self.ask(now, worker)
        clips = row.kept[done]
        for within, enough in enumerate(self.table.enough):
            if clips >= enough and self.reached[within] is None:
                self.reached[within] = now
        trial.report(clips / self.table.clips, done + 1)
        if done + 1 == EPOCHS:
            self.known.add(row.numbers)
            self.study.tell(trial, clips / self.table.clips)
        elif trial.should_prune():
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            return heapq.heappush(self.ends, (now + row.epoch_ms, worker, trial, row, done + 1))
        return self.ask(now, worker)

    def tell(self, trial: optuna.Trial, row: Row) -> None:
        """What is known of a configuration that was trained to its end."""
        if not row.kept:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        for epoch, clips in enumerate(row.kept, start=1):
            trial.report(clips / self.table.clips, epoch)
        self.study.tell(trial, row.kept[-1] / self.table.clips)


def search(task: tuple[dict, str, int, int]) -> tuple[tuple[str, int, int], list[int | None]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    told, name, seed, workers = task
    return (name, seed, workers), Search(Table(told), name, seed, workers).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", type=Path, required=True, help="what the other side told of the table")
    parser.add_argument("--keep", type=Path, required=True, help="file of the searches that are done")
    parser.add_argument("--processes", type=int, help="searches at a time (default as many as there are cores)")
    arguments = parser.parse_args()
    told = json.loads(arguments.table.read_text(encoding="utf-8"))
    # Another table, version or script makes what is kept worthless.
    parts = (TABLE.read_bytes(), arguments.table.read_bytes(), Path(__file__).read_bytes(), optuna.__version__.encode())
    of = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
    found: dict[tuple[str, int, int], list[int | None]] = {}
    if arguments.keep.is_file():
        lines = [json.loads(line) for line in arguments.keep.read_text(encoding="utf-8").splitlines()]
        found = {tuple(line["task"]): line["reached_ms"] for line in lines if line["of"] == of}
    searches = [(name, seed, workers) for seed in range(arguments.seeds) for name in METHODS for workers in WORKERS]
    left = [(told, *task) for task in searches if task not in found]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool, arguments.keep.open("a") as file:
        for task, reached in pool.imap_unordered(search, left):
            print(json.dumps({"of": of, "task": task, "reached_ms": reached}), file=file, flush=True)
            found[task] = reached
    times: dict[str, list[list[int | None]]] = {}
    for name, seed, workers in searches:
        times.setdefault(f"{name}|{workers}", []).append(found[name, seed, workers])
    print(json.dumps({"times": times}))


if __name__ == "__main__":
    main()
