"""PyTorch's side of `benches/training.py`: the same two models on the same clips, timed step by step.

    python pytorch_peer.py rate  --data DIR --model reference --processes 1 [--tuned]
    python pytorch_peer.py curve --data DIR --model reference --steps 300 --seeds 3

`--data` is what `cargo bench -p worker --bench training -- --write DIR` leaves. Prints one JSON object.

Eager is PyTorch as its tutorials use it, less what would slow it down: tensors in memory instead of a `DataLoader`,
one thread. Tuned adds channels-last activations and the fused optimiser; the allocator's settings are the caller's, in
the environment.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BATCH = 32
CLASSES = 50
FRAMES = 431
# The same counts as in worker/benches/training.rs.
ROUNDS = 6
STEPS = 8
# Of the five-block model's one-cycle schedule; more than are taken.
SCHEDULED_STEPS = 3000


def reference() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 3 * (FRAMES // 4), 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


class Mean(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean((2, 3))


def five_block() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 1
    for filters in (16, 32, 48, 64, 96):
        layers += [nn.Conv2d(channels, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels = filters
    return nn.Sequential(*layers, Mean(), nn.Dropout(0.3), nn.Linear(channels, CLASSES))


class Training:
    """One model with its optimiser, step after step over the clips in an order that is drawn anew every epoch."""

    def __init__(self, model: str, data: Path, tuned: bool) -> None:
        self.model = reference() if model == "reference" else five_block()
        self.labels = torch.from_numpy(np.fromfile(data / "labels.i64", dtype=np.int64))
        features = np.fromfile(data / "features.f32", dtype=np.float32).reshape(len(self.labels), 1, -1, FRAMES)
        self.features = torch.from_numpy(features)
        if tuned:
            self.model = self.model.to(memory_format=torch.channels_last)
            self.features = self.features.to(memory_format=torch.channels_last)
        fused = True if tuned else None
        self.scheduler = None
        if model == "reference":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=fused)
        else:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3, weight_decay=1e-2, fused=fused)
            self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, max_lr=3e-3, total_steps=SCHEDULED_STEPS
            )
        self.batches: list[torch.Tensor] = []
        self.model.train()

    def step(self) -> torch.Tensor:
        if not self.batches:
            self.batches = list(torch.randperm(len(self.labels)).split(BATCH))
        batch = self.batches.pop()
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.model(self.features[batch]), self.labels[batch])
        loss.backward()
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        return loss.detach()


def rate(model: str, data: Path, tuned: bool, start: Barrier) -> float:
    """Samples a second of this thread's time on a core: of several rounds the fastest, the others had company."""
    torch.set_num_threads(1)
    training = Training(model, data, tuned)
    start.wait()
    fastest = math.inf
    for warm in [False] + ROUNDS * [True]:
        started = time.thread_time()
        for _ in range(STEPS):
            training.step()
        if warm:
            fastest = min(fastest, time.thread_time() - started)
    return BATCH * STEPS / fastest


def rates(model: str, data: Path, tuned: bool, processes: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes)
    answers = context.Queue()
    workers = [
        context.Process(target=answer_rate, args=(answers, model, data, tuned, start)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    return found


def answer_rate(answers: multiprocessing.Queue[float], model: str, data: Path, tuned: bool, start: Barrier) -> None:
    answers.put(rate(model, data, tuned, start))


def curve(model: str, data: Path, steps: int, seed: int) -> list[float]:
    """Loss of every step."""
    torch.manual_seed(seed)
    training = Training(model, data, tuned=False)
    return [training.step().item() for _ in range(steps)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "curve"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", choices=("reference", "five-block"), required=True)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    model, data = arguments.model, arguments.data
    if arguments.what == "rate":
        result: dict[str, object] = {"training": rates(model, data, arguments.tuned, arguments.processes)}
    else:
        torch.set_num_threads(1)
        result = {"losses": [curve(model, data, arguments.steps, seed) for seed in range(arguments.seeds)]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
