"""Makes bf16.safetensors: gradients of the variants in models.safetensors when what their convolutions multiply in training is
rounded to bfloat16 first, maps, weights and gradients alike.

    pip install -r requirements.txt && python bf16.py
"""

import json
from pathlib import Path

import torch
from make import write
from models import AudioCnn
from torch import nn
from torch.nn import functional, grad


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().float()


class Rounded(torch.autograd.Function):
    """A convolution of rounded factors. Where `sparse`, the way back multiplies what it is given, as Earshot does where max
    pooling leaves few gradients."""

    @staticmethod
    def forward(context, x, weight, bias, padding, sparse):
        context.save_for_backward(x, weight)
        context.padding, context.sparse = padding, sparse
        return functional.conv2d(rounded(x), rounded(weight), bias, padding=padding)

    @staticmethod
    def backward(context, gradient):
        x, weight = context.saved_tensors
        of = (lambda tensor: tensor) if context.sparse else rounded
        x_gradient = grad.conv2d_input(x.shape, of(weight), of(gradient), padding=context.padding)
        weight_gradient = grad.conv2d_weight(of(x), weight.shape, of(gradient), padding=context.padding)
        return x_gradient, weight_gradient, gradient.sum((0, 2, 3)), None, None


class RoundedConv2d(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros(self.out_channels) if self.bias is None else self.bias
        return Rounded.apply(x, self.weight, bias, self.padding, self.sparse)


def round_layers(model: AudioCnn) -> None:
    """All convolutions but the first, whose input has one channel, and depthwise ones."""
    for index, (name, layer) in enumerate(model.layers.items()):
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and index > 0:
            block = model.spec["blocks"][int(name.split("_")[1])]
            layer.__class__ = RoundedConv2d
            layer.sparse = not block["batch_norm"] and block["pooling"] == "max"


def gradients(spec: dict, golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model = AudioCnn(spec)
    state = model.state_dict()
    for key in state:
        if not key.endswith("num_batches_tracked"):
            layer, rest = key.removeprefix("layers.").split(".", 1)
            state[key] = golden[f"initial.{layer.replace('_', '.')}.{rest}"]
    model.load_state_dict(state)
    round_layers(model)
    model.train()
    labels = golden["labels"].long()
    functional.cross_entropy(model(golden["features"], golden["mask"]), labels).backward()
    named = {}
    for key, parameter in model.named_parameters():
        layer, rest = key.removeprefix("layers.").split(".", 1)
        named[f"{layer.replace('_', '.')}.{rest}"] = parameter.grad
    return named


def read(path: Path) -> dict[str, torch.Tensor]:
    """A safetensors file of 32-bit floats."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        tensors[name] = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).reshape(entry["shape"])
    return tensors


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(__file__).parent
    golden = read(folder / "models.safetensors")
    tensors = {}
    for name, variant in json.loads((folder / "models.json").read_text()).items():
        of_variant = {key.removeprefix(f"{name}/"): tensor for key, tensor in golden.items() if key.startswith(f"{name}/")}
        made = gradients(variant["spec"], of_variant)
        tensors |= {f"{name}/{key}": tensor for key, tensor in made.items()}
    write(folder / "bf16.safetensors", tensors)


if __name__ == "__main__":
    main()
