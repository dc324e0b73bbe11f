"""Makes steps.safetensors: three steps of torch.optim.Adam on a small AudioCNN, no dropout, one fixed batch.

    pip install -r requirements.txt && python make.py
"""

import json
import struct
from pathlib import Path

import torch
from torch import nn

N_MFCC, FRAMES, CLASSES, CLIPS = 8, 24, 4, 16
# Names of the checkpoint's layers, by their place in the network below.
NAMES = {"0": "blocks.0", "3": "blocks.1", "7": "head.fc", "9": "head.out"}


def network() -> nn.Sequential:
    """The example job's model of tests/it/jobs.rs, in the textbook order."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * (N_MFCC // 4) * (FRAMES // 4), 12),
        nn.ReLU(),
        nn.Linear(12, CLASSES),
    )


def weights(net: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in net.state_dict().items():
        layer, part = name.split(".")
        named[f"{prefix}.{NAMES[layer]}.{part}"] = tensor.clone()
    return named


def write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The safetensors format: header length, JSON header, little-endian data."""
    header, data = {}, b""
    for name, tensor in sorted(tensors.items()):
        raw = bytes(tensor.to(torch.float32).contiguous().flatten().view(torch.uint8).tolist())
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main() -> None:
    torch.manual_seed(20)
    torch.set_num_threads(1)
    net = network()
    features = torch.randn(CLIPS, N_MFCC, FRAMES)
    labels = torch.arange(CLIPS) % CLASSES
    golden = {"features": features, "labels": labels} | weights(net, "initial")
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(net(features.unsqueeze(1)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    golden |= weights(net, "final") | {"losses": torch.stack(losses)}
    write(Path(__file__).with_name("steps.safetensors"), golden)


if __name__ == "__main__":
    main()
