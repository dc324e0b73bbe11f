"""Makes aware.safetensors: variants of the AudioCNN that round as int8 does, built from PyTorch's own fake quantisation, with the
logits, the loss and the gradients that it gives.

    pip install -r requirements.txt && python aware.py
"""

from pathlib import Path

import torch
from make import write
from models import CLASSES, CLIPS, DROPOUT, SPECS, AudioCnn, tensors
from torch import nn
from torch.nn import functional

NAMES = ("ordinary", "batch_norm", "separable", "average", "mean", "mean_max", "five")
# Ranges a little narrower than what is seen, so that some of it saturates.
KEPT = 0.8


class Floats:
    """Notes the range of every activation that int8 has a scale for."""

    def __init__(self) -> None:
        self.ranges = []

    def hold(self, x: torch.Tensor) -> torch.Tensor:
        self.ranges.append((min(0.0, KEPT * x.min().item()), max(0.0, KEPT * x.max().item())))
        return x

    def again(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def weigh(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple:
        return weight, bias


class Rounded:
    """Rounds every activation to its range's 256 steps, weights to 255 a channel, and biases to the scale of sums."""

    def __init__(self, ranges: list) -> None:
        self.ranges, self.scale = iter(ranges), None

    def hold(self, x: torch.Tensor) -> torch.Tensor:
        low, high = torch.tensor(next(self.ranges), dtype=torch.float32)
        self.scale = ((high - low) / 255).item()
        self.zero = int((-128 - low / self.scale).round().item())
        return self.again(x)

    def again(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, -128, 127)

    def weigh(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple:
        scales = weight.detach().abs().flatten(1).amax(1) / 127
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)
        most = 2**30
        bias = torch.fake_quantize_per_channel_affine(bias, scales * self.scale, zeros, 0, -most, most)
        return weight, bias


def folded(layer: nn.Module) -> tuple:
    if not hasattr(layer, "norm"):
        return layer.weight, layer.bias
    norm = layer.norm
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return layer.weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor


def forward(model: AudioCnn, how: Floats | Rounded, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    x = how.hold(x.unsqueeze(1))
    for index, block in enumerate(model.spec["blocks"]):
        for name in (f"blocks_{index}", f"blocks_{index}_depthwise", f"blocks_{index}_pointwise"):
            if name in model.layers:
                layer = model.layers[name]
                weight, bias = how.weigh(*folded(layer))
                x = functional.conv2d(x, weight, bias, padding=layer.padding, groups=layer.groups)
                x = how.hold(torch.relu(x) if isinstance(how, Floats) else x)
        x = functional.max_pool2d(x, 2) if block["pooling"] == "max" else how.hold(functional.avg_pool2d(x, 2))
    match model.spec["head"]["reduction"]:
        case "flatten":
            x = x.flatten(1)
        case "mean":
            x = how.hold(x.mean((2, 3)))
        case "mean_max":
            x = torch.cat([how.again(x.mean((2, 3))), x.amax((2, 3))], 1)
    x = x if mask is None else x * mask
    if "head_fc" in model.layers:
        x = functional.linear(x, *how.weigh(*folded(model.layers["head_fc"])))
        x = how.hold(torch.relu(x) if isinstance(how, Floats) else x)
    return functional.linear(x, *how.weigh(*folded(model.layers["head_out"])))


def golden(name: str) -> dict[str, torch.Tensor]:
    model = AudioCnn(SPECS[name])
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if ".norm." in key and tensor.dtype == torch.float32:
            is_spread = key.endswith("running_var") or key.endswith("norm.weight")
            nn.init.uniform_(tensor, 0.5, 1.5) if is_spread else nn.init.normal_(tensor, 0.0, 0.3)
    features = torch.randn(CLIPS, model.spec["n_mfcc"], model.spec["frames"])
    labels = torch.arange(CLIPS) % CLASSES
    mask = (torch.rand(CLIPS, model.features) >= DROPOUT).float() / (1 - DROPOUT)
    made = {"features": features, "labels": labels, "mask": mask} | tensors(model, "initial")
    floats = Floats()
    forward(model, floats, features, None)
    loss = functional.cross_entropy(forward(model, Rounded(floats.ranges), features, mask), labels)
    loss.backward()
    for key, parameter in model.named_parameters():
        layer, rest = key.removeprefix("layers.").split(".", 1)
        made[f"gradient.{layer.replace('_', '.')}.{rest}"] = parameter.grad
    logits = forward(model, Rounded(floats.ranges), features, None).detach()
    made |= {"ranges": torch.tensor(floats.ranges), "loss": loss.detach(), "logits": logits}
    return {f"{name}/{key}": tensor for key, tensor in made.items()}


def main() -> None:
    torch.manual_seed(29)
    torch.set_num_threads(1)
    made = {}
    for name in NAMES:
        made |= golden(name)
    write(Path(__file__).with_name("aware.safetensors"), made)


if __name__ == "__main__":
    main()
