"""Makes distil.safetensors: steps on targets that are in part a teacher's (Hinton, Vinyals and Dean 2015, arXiv:1503.02531), as
PyTorch takes them.

    pip install -r requirements.txt && python distil.py
"""

from pathlib import Path

import torch
from make import write
from models import CLASSES, CLIPS, SPECS, AudioCnn, tensors
from recipes import FRAMES, LABEL_SMOOTHING, LAMBDA, LEARNING_RATE, PARTNERS, ROWS, STEPS
from torch.nn import functional

WEIGHT, TEMPERATURE = 0.7, 3.0


def blended(plain: torch.Tensor, is_mixed: bool) -> torch.Tensor:
    return LAMBDA * plain + (1 - LAMBDA) * plain[PARTNERS] if is_mixed else plain


def training(is_mixed: bool) -> dict[str, torch.Tensor]:
    """Steps on blended and smoothed targets, or on plain ones."""
    model = AudioCnn(SPECS["ordinary"])
    features = torch.randn(CLIPS, ROWS, FRAMES)
    labels = torch.arange(CLIPS) % CLASSES
    teacher = torch.randn(CLIPS, CLASSES) * 4
    made = {"features": features, "labels": labels, "teacher": teacher} | tensors(model, "initial")
    hard = blended(functional.one_hot(labels, CLASSES).float(), is_mixed)
    soft = blended(functional.softmax(teacher / TEMPERATURE, dim=1), is_mixed)
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE), []
    for _ in range(STEPS):
        logits = model(blended(features, is_mixed))
        own = functional.cross_entropy(logits, hard, label_smoothing=LABEL_SMOOTHING if is_mixed else 0.0)
        log_probabilities = functional.log_softmax(logits / TEMPERATURE, dim=1)
        taught = functional.kl_div(log_probabilities, soft, reduction="batchmean")
        loss = (1 - WEIGHT) * own + WEIGHT * TEMPERATURE**2 * taught
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return made | tensors(model, "final") | {"losses": torch.stack(losses)}


def main() -> None:
    torch.manual_seed(23)
    torch.set_num_threads(1)
    golden = {}
    for name, is_mixed in (("plain", False), ("mixed", True)):
        golden |= {f"{name}/{key}": tensor for key, tensor in training(is_mixed).items()}
    write(Path(__file__).with_name("distil.safetensors"), golden)


if __name__ == "__main__":
    main()
