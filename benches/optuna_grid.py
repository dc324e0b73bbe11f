"""The 24-trial grid as a user of Optuna and PyTorch would run it, at its best: the peer of `sweeps/grid.toml`.

What is done in Optuna's favour, so that the comparison is fair:

- processes share a journal file, as Optuna's documentation advises for several processes on one machine, and are
  forked after the imports and after the features are read, so both are paid for once;
- a callback stops the study when all 24 trials have been started; without it the last processes train points again
  that others are still training;
- all tensors are in memory and batches are index selections: no `DataLoader`;
- one PyTorch thread a process, and as many processes as cores, which on models of this size is fastest.

Features come from `coordinator data prepare`: `{features}/{clip}_mfcc.npy`, float32, (13, frames). They are
zero-padded or cropped to 431 frames (five seconds) after being standardised per coefficient by the training part.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from torch import nn
from torch.nn import functional

GRID = {
    "learning_rate": [1e-2, 1e-3, 1e-4],
    "filters": ["16/32", "32/64"],
    "dropout": [0.2, 0.3, 0.4, 0.5],
}
GRID_POINTS = 24
EPOCHS = 10
BATCH = 32
VALIDATION_FOLD = 1
N_MFCC = 13
FRAMES = 431
SEED = 42
STUDY = "grid"


@dataclass(frozen=True)
class Part:
    """Features (clips, 1, 13, 431) and class numbers of the training or the validation part."""

    features: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class Dataset:
    train: Part
    validation: Part
    classes: int


def read_dataset(features: Path, meta: Path) -> Dataset:
    with meta.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    targets = sorted({int(row["target"]) for row in rows})
    clips = [np.load(features / f"{Path(row['filename']).stem}_mfcc.npy") for row in rows]
    is_validation = np.array([int(row["fold"]) == VALIDATION_FOLD for row in rows])

    frames = np.concatenate([clip for clip, held_out in zip(clips, is_validation) if not held_out], axis=1)
    mean = frames.mean(axis=1, keepdims=True)
    deviation = frames.std(axis=1, keepdims=True) + 1e-6
    inputs = np.zeros((len(rows), 1, N_MFCC, FRAMES), dtype=np.float32)
    for index, clip in enumerate(clips):
        length = min(clip.shape[1], FRAMES)
        inputs[index, 0, :, :length] = ((clip - mean) / deviation)[:, :length]
    labels = np.array([targets.index(int(row["target"])) for row in rows])

    def part(mask: np.ndarray) -> Part:
        return Part(torch.from_numpy(inputs[mask]), torch.from_numpy(labels[mask]))

    return Dataset(part(~is_validation), part(is_validation), len(targets))


class AudioCnn(nn.Sequential):
    """Earshot's reference architecture."""

    def __init__(self, filters: tuple[int, int], dropout: float, classes: int) -> None:
        first, second = filters
        super().__init__(
            nn.Conv2d(1, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(second * (N_MFCC // 4) * (FRAMES // 4), 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, part: Part) -> None:
    model.train()
    for batch in torch.randperm(len(part.targets)).split(BATCH):
        optimizer.zero_grad()
        functional.cross_entropy(model(part.features[batch]), part.targets[batch]).backward()
        optimizer.step()


@torch.inference_mode()
def evaluate(model: nn.Module, part: Part) -> tuple[float, float]:
    """Mean loss and accuracy."""
    model.eval()
    loss = hits = 0.0
    for features, targets in zip(part.features.split(BATCH), part.targets.split(BATCH)):
        logits = model(features)
        loss += functional.cross_entropy(logits, targets, reduction="sum").item()
        hits += (logits.argmax(dim=1) == targets).sum().item()
    return loss / len(part.targets), hits / len(part.targets)


def objective(trial: optuna.Trial, data: Dataset) -> float:
    """Trains one point of the grid; its value is the accuracy at the epoch of the lowest validation loss."""
    learning_rate = trial.suggest_categorical("learning_rate", GRID["learning_rate"])
    first, second = trial.suggest_categorical("filters", GRID["filters"]).split("/")
    dropout = trial.suggest_categorical("dropout", GRID["dropout"])

    torch.manual_seed(SEED)
    model = AudioCnn((int(first), int(second)), dropout, data.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    best_loss, best_accuracy, best_weights = float("inf"), 0.0, None
    for epoch in range(EPOCHS):
        train_epoch(model, optimizer, data.train)
        loss, accuracy = evaluate(model, data.validation)
        trial.report(accuracy, epoch)
        if loss < best_loss:
            best_loss, best_accuracy, best_weights = loss, accuracy, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return best_accuracy


def open_storage(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))


def work(journal: Path, data: Dataset) -> None:
    """One process: takes points of the shared study until all have been started."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.GridSampler(GRID, seed=SEED)
    study = optuna.load_study(study_name=STUDY, storage=open_storage(journal), sampler=sampler)
    all_started = MaxTrialsCallback(GRID_POINTS, states=(TrialState.COMPLETE, TrialState.RUNNING))
    study.optimize(lambda trial: objective(trial, data), callbacks=[all_started])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, required=True, help="folder of {clip}_mfcc.npy")
    parser.add_argument("--meta", type=Path, required=True, help="the data set's meta/esc50.csv")
    parser.add_argument("--journal", type=Path, required=True, help="where Optuna keeps the study")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()

    # The parent computes nothing with PyTorch, so forking it is safe.
    data = read_dataset(arguments.features, arguments.meta)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=STUDY, storage=open_storage(arguments.journal), direction="maximize"
    )
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=work, args=(arguments.journal, data)) for _ in range(arguments.processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed")

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    points = {tuple(sorted(trial.params.items())) for trial in done}
    accuracies = sorted((trial.value for trial in done), reverse=True)
    print(json.dumps({"trials": len(done), "points": len(points), "accuracies": accuracies}))


if __name__ == "__main__":
    main()
