"""Makes models.json and models.safetensors: variants of the AudioCNN written in PyTorch from their spec, with what PyTorch
counts in them, and what three training steps and an evaluation give.

    pip install -r requirements.txt && python models.py
"""

import json
import math
from pathlib import Path

import torch
from make import write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

CLIPS, CLASSES, DROPOUT, STEPS, LEARNING_RATE = 8, 4, 0.25, 3, 5e-3


def block(filters: int, kernel_size: int = 3, **more: object) -> dict:
    plain = {"convolution": "ordinary", "batch_norm": False, "pooling": "max"}
    return {"filters": filters, "kernel_size": kernel_size} | plain | more


def spec(*blocks: dict, rows: int = 8, frames: int = 24, **more: object) -> dict:
    head = {"reduction": more.pop("reduction", "flatten"), "dropout": DROPOUT, "fc_units": more.pop("fc_units", None)}
    model = {"input": "mfcc", "n_mfcc": rows, "frames": frames, "blocks": list(blocks), "head": head, "classes": CLASSES}
    return model | more


SPECS = {
    "ordinary": spec(block(4), block(6, 5), fc_units=12),
    "mel": spec(block(4), block(6), input="mel"),
    "batch_norm": spec(block(4, batch_norm=True), block(6, 5, batch_norm=True), fc_units=12),
    "separable": spec(block(4), block(6, 5, convolution="depthwise_separable")),
    "average": spec(block(4, pooling="average"), block(6, pooling="average")),
    "mean": spec(block(4), block(6), reduction="mean"),
    "mean_max": spec(block(4), block(6), reduction="mean_max", fc_units=5),
    "three": spec(block(4), block(6), block(8)),
    "four": spec(block(4), block(6), block(8), block(6), rows=16),
    "five": spec(
        block(4, batch_norm=True),
        block(6, batch_norm=True, convolution="depthwise_separable"),
        block(8, 5, batch_norm=True, convolution="depthwise_separable"),
        block(8, batch_norm=True, pooling="average"),
        block(10, batch_norm=True, convolution="depthwise_separable"),
        rows=33,
        frames=41,
        input="mel",
        reduction="mean_max",
        fc_units=7,
    ),
}


class AudioCnn(nn.Module):
    """In the textbook order; submodules are named so that a state's keys are the checkpoint's."""

    def __init__(self, spec: dict) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleDict()
        channels, (rows, columns) = 1, (spec["n_mfcc"], spec["frames"])
        for index, block in enumerate(spec["blocks"]):
            for name, groups, filters, kernel in self.convolutions(index, block, channels):
                self.layers[name] = self.convolution(channels, filters, kernel, groups, block["batch_norm"])
                channels = filters
            rows, columns = rows // 2, columns // 2
        self.features = channels * {"flatten": rows * columns, "mean": 1, "mean_max": 2}[spec["head"]["reduction"]]
        inputs = self.features
        if spec["head"]["fc_units"]:
            self.layers["head_fc"] = nn.Linear(inputs, spec["head"]["fc_units"])
            inputs = spec["head"]["fc_units"]
        self.layers["head_out"] = nn.Linear(inputs, spec["classes"])

    @staticmethod
    def convolutions(index: int, block: dict, channels: int) -> list[tuple]:
        name = f"blocks_{index}"
        if block["convolution"] == "ordinary":
            return [(name, 1, block["filters"], block["kernel_size"])]
        return [
            (f"{name}_depthwise", channels, channels, block["kernel_size"]),
            (f"{name}_pointwise", 1, block["filters"], 1),
        ]

    @staticmethod
    def convolution(channels: int, filters: int, kernel: int, groups: int, batch_norm: bool) -> nn.Module:
        conv = nn.Conv2d(channels, filters, kernel, padding=kernel // 2, groups=groups, bias=not batch_norm)
        if batch_norm:
            conv.norm = nn.BatchNorm2d(filters)
        return conv

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = x.unsqueeze(1)
        for index, block in enumerate(self.spec["blocks"]):
            for name in (f"blocks_{index}", f"blocks_{index}_depthwise", f"blocks_{index}_pointwise"):
                if name in self.layers:
                    layer = self.layers[name]
                    x = layer(x)
                    x = torch.relu(layer.norm(x) if hasattr(layer, "norm") else x)
            x = nn.functional.max_pool2d(x, 2) if block["pooling"] == "max" else nn.functional.avg_pool2d(x, 2)
        mean = x.mean((2, 3))
        x = {
            "flatten": lambda: x.flatten(1),
            "mean": lambda: mean,
            "mean_max": lambda: torch.cat([mean, x.amax((2, 3))], 1),
        }[self.spec["head"]["reduction"]]()
        x = x if mask is None else x * mask
        if "head_fc" in self.layers:
            x = torch.relu(self.layers["head_fc"](x))
        return self.layers["head_out"](x)


def tensors(model: AudioCnn, prefix: str) -> dict[str, torch.Tensor]:
    named = {}
    for key, tensor in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            layer, rest = key.removeprefix("layers.").split(".", 1)
            named[f"{prefix}.{layer.replace('_', '.')}.{rest}"] = tensor.clone()
    return named


def inverse_dct(n: int) -> torch.Tensor:
    k, band = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)
    matrix = math.sqrt(2 / n) * torch.cos(math.pi * k[None, :] * (2 * band[:, None] + 1) / (2 * n))
    matrix[:, 0] = math.sqrt(1 / n)
    return matrix.float()


def macs(model: AudioCnn) -> int:
    """Of one clip. PyTorch counts a multiplication and an addition as two operations."""
    clip = torch.randn(1, model.spec["n_mfcc"], model.spec["frames"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if model.spec["input"] == "mel":
            clip = inverse_dct(model.spec["n_mfcc"]) @ clip
        model.eval()(clip)
    return counter.get_total_flops() // 2


def params(model: AudioCnn) -> int:
    """Of what is left when batch norm is folded: its scale goes into the weights."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.endswith("norm.weight"))


def golden(name: str, spec: dict) -> dict[str, torch.Tensor]:
    model = AudioCnn(spec)
    for key, tensor in model.named_parameters():
        if ".norm." in key:
            nn.init.normal_(tensor, 1.0 if key.endswith("weight") else 0.0, 0.3)
    features = torch.randn(CLIPS, spec["n_mfcc"], spec["frames"])
    labels = torch.arange(CLIPS) % CLASSES
    mask = (torch.rand(CLIPS, model.features) >= DROPOUT).float() / (1 - DROPOUT)
    made = {"features": features, "labels": labels, "mask": mask} | tensors(model, "initial")
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    losses = []
    model.train()
    for step in range(STEPS):
        loss = nn.functional.cross_entropy(model(features, mask), labels)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            trained = {key: p.grad.clone() for key, p in model.named_parameters()}
        optimiser.step()
        losses.append(loss.detach())
    for key, gradient in trained.items():
        layer, rest = key.removeprefix("layers.").split(".", 1)
        made[f"gradient.{layer.replace('_', '.')}.{rest}"] = gradient
    made |= tensors(model, "final") | {"losses": torch.stack(losses)}
    made["logits"] = model.eval()(features).detach()
    return {f"{name}/{key}": tensor for key, tensor in made.items()}


def main() -> None:
    torch.manual_seed(21)
    torch.set_num_threads(1)
    folder = Path(__file__).parent
    counts = {
        name: {"spec": spec, "params": params(AudioCnn(spec)), "macs": macs(AudioCnn(spec))} for name, spec in SPECS.items()
    }
    (folder / "models.json").write_text(json.dumps(counts, indent=1) + "\n")
    tensors = {}
    for name, spec in SPECS.items():
        tensors |= golden(name, spec)
    write(folder / "models.safetensors", tensors)


if __name__ == "__main__":
    main()
