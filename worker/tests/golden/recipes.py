"""Makes recipes.safetensors: what PyTorch's schedulers, optimisers and losses do, and what augmentation does to features by
its definition, on raw features.

    pip install -r requirements.txt && python recipes.py
"""

from pathlib import Path

import torch
from make import write
from models import CLASSES, CLIPS, SPECS, AudioCnn, inverse_dct, tensors
from torch import nn
from torch.optim import lr_scheduler

STEPS, LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING, LAMBDA = 10, 5e-3, 0.05, 0.1, 0.3
PARTNERS = [3, 0, 2, 1, 7, 4, 5, 6]
ROWS, FRAMES = 8, 24


def scheduler(name: str, optimiser: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    if name == "one_cycle":
        return lr_scheduler.OneCycleLR(optimiser, max_lr=LEARNING_RATE, total_steps=steps)
    return lr_scheduler.ConstantLR(optimiser, factor=1)


def paces(name: str, steps: int) -> torch.Tensor:
    """Learning rate and first beta of every step."""
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=LEARNING_RATE)
    schedule, rows = scheduler(name, optimiser, steps), []
    for _ in range(steps):
        group = optimiser.param_groups[0]
        rows.append([group["lr"], group["betas"][0]])
        optimiser.step()
        schedule.step()
    return torch.tensor(rows, dtype=torch.float64)


def training(optimizer: type, schedule: str) -> dict[str, torch.Tensor]:
    """Steps on mixed, smoothed targets."""
    model = AudioCnn(SPECS["ordinary"])
    features = torch.randn(CLIPS, ROWS, FRAMES)
    labels = torch.arange(CLIPS) % CLASSES
    made = {"features": features, "labels": labels} | tensors(model, "initial")
    mixed = LAMBDA * features + (1 - LAMBDA) * features[PARTNERS]
    optimiser = optimizer(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps, losses = scheduler(schedule, optimiser, STEPS), []
    for _ in range(STEPS):
        logits = model(mixed)
        # As the paper's own code has it: the blend of two losses, not the loss of a blended target.
        own, other = (
            nn.functional.cross_entropy(logits, target, label_smoothing=LABEL_SMOOTHING)
            for target in (labels, labels[PARTNERS])
        )
        loss = LAMBDA * own + (1 - LAMBDA) * other
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps.step()
        losses.append(loss.detach())
    return made | tensors(model, "final") | {"losses": torch.stack(losses)}


def augmented(kind: str) -> dict[str, torch.Tensor]:
    """One clip, raw, and what becomes of it, standardised. Everything happens to the raw clip."""
    mfcc = torch.randn(ROWS, FRAMES, dtype=torch.float64) * 20 - 30
    matrix = inverse_dct(ROWS).double()
    std = torch.rand(ROWS, dtype=torch.float64)[:, None] * 20 + 5
    mean = torch.randn(ROWS, dtype=torch.float64)[:, None] * 30

    def standardised(mfcc: torch.Tensor) -> torch.Tensor:
        return ((mfcc if kind == "mfcc" else matrix @ mfcc) - mean) / std

    band_means = matrix @ mean if kind == "mfcc" else mean
    made = {"clip": standardised(mfcc), "mean": mean.flatten(), "std": std.flatten()}

    gained = mfcc.clone()
    gained[0] += 12.5
    made["gain"] = standardised(gained)
    made["roll"] = standardised(torch.roll(mfcc, 5, dims=1))
    made["roll_back"] = standardised(torch.roll(mfcc, -7, dims=1))

    bands = matrix @ mfcc
    bands[2:5] = band_means[2:5]
    made["freq_mask"] = standardised(matrix.T @ bands)

    clip = standardised(mfcc)
    clip[:, 4:10] = 0
    made["time_mask"] = clip
    return made


def main() -> None:
    torch.manual_seed(22)
    torch.set_num_threads(1)
    golden = {}
    for name in ("constant", "cosine", "one_cycle"):
        # Once as a whole cycle, once so short that a phase has no step of its own.
        for steps in (23, 3):
            golden[f"paces/{name}/{steps}"] = paces(name, steps)
    for name, optimizer in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        for schedule in ("constant", "one_cycle"):
            golden |= {f"{name}/{schedule}/{key}": tensor for key, tensor in training(optimizer, schedule).items()}
    for kind in ("mfcc", "mel"):
        golden |= {f"augmented/{kind}/{key}": tensor for key, tensor in augmented(kind).items()}
    write(Path(__file__).with_name("recipes.safetensors"), golden)


if __name__ == "__main__":
    main()
