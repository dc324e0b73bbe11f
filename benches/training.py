"""Part of `make bench`: training steps against PyTorch's on the same clips, in turn.

    python3 benches/training.py [--pairs N] [--seeds N]

Two models, the reference AudioCNN and a five-block one with batch norm; one slot, then as many as there are cores. Rates are
of each thread's own time on a core, so that what else runs costs both sides little. At the end both sides' losses on the same
clips, with weights and orders that each draws for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from run import CORES, REQUIREMENTS, ROOT, RUN_S_MAX, WORK, describe_machine, peer_python

PEER = ROOT / "benches" / "pytorch_peer.py"
MODELS = {"reference": "reference AudioCNN, 13 × 431", "five-block": "five blocks with batch norm, 40 × 431"}
# What keeps glibc from giving every freed tensor back to the kernel.
KEEP_FREED = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_ARENA_MAX": "1",
}
# Eager is PyTorch by its defaults; tuned has channels-last, a fused Adam and the allocator's settings.
PEERS = {"eager": ([], {}), "tuned": (["--tuned"], KEEP_FREED)}
# What the kernel calls the instructions that a worker's --bf16 needs.
HAS_BF16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text().split()
# Losses are compared as means of so many steps.
WINDOW = 20
CURVE_STEPS = 120

Json = dict[str, list[float]]


def answer(*command: str | Path, environment: dict[str, str] | None = None) -> Json:
    """The JSON object that a command prints last."""
    arguments = [str(part) for part in command]
    environment = {**os.environ, **(environment or {})}
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, timeout=RUN_S_MAX, env=environment)
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(arguments)} failed with {done.returncode}\n{done.stdout}")
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else {}


def ours(model: str, *arguments: str | Path) -> Json:
    bench = ["cargo", "bench", "--quiet", "--locked", "-p", "worker", "--bench", "training", "--"]
    return answer(*bench, "--model", model, "--format", "json", *arguments)


def theirs(python: Path, what: str, model: str, kind: str, *arguments: str) -> Json:
    flags, environment = PEERS[kind]
    command = [python, PEER, what, "--data", clips(model), "--model", model, *flags, *arguments]
    return answer(*command, environment=environment)


def clips(model: str) -> Path:
    return WORK / "training" / model


def one_round(python: Path, model: str, at_once: int) -> dict[str, float]:
    """Samples a second of one slot, the mean of those that run at once."""
    rates = {kind: theirs(python, "rate", model, kind, "--processes", str(at_once)) for kind in PEERS}
    rates["Earshot"] = ours(model, "--slots", str(at_once))
    if HAS_BF16:
        rates["bf16"] = ours(model, "--slots", str(at_once), "--bf16")
    return {side: statistics.mean(rate["training"]) for side, rate in rates.items()}


def rates(python: Path, model: str, at_once: int, pairs: int) -> dict[str, float]:
    rounds = [one_round(python, model, at_once) for _ in range(pairs)]
    return {side: statistics.median(rates[side] for rates in rounds) for side in rounds[0]}


def windows(losses: list[list[float]]) -> list[str]:
    """Means over so many steps: of all seeds, and of the lowest and the highest seed."""
    shown = []
    for start in range(0, CURVE_STEPS, WINDOW):
        means = [statistics.mean(run[start : start + WINDOW]) for run in losses]
        shown.append(f"{statistics.mean(means):.2f} ({min(means):.2f}–{max(means):.2f})")
    return shown


def print_curves(python: Path, seeds: int) -> None:
    print(f"\nlosses, means of {WINDOW} steps and {seeds} seeds (lowest and highest seed)\n")
    columns = [f"{start + 1}–{start + WINDOW}" for start in range(0, CURVE_STEPS, WINDOW)]
    print("| model | side | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for model in MODELS:
        of_ours = ["--curve", str(CURVE_STEPS), "--seeds", str(seeds)]
        of_theirs = ["--steps", str(CURVE_STEPS), "--seeds", str(seeds)]
        curves = {"Earshot": ours(model, *of_ours)["losses"]}
        if HAS_BF16:
            curves["Earshot, bf16"] = ours(model, "--bf16", *of_ours)["losses"]
        curves["PyTorch"] = theirs(python, "curve", model, "eager", *of_theirs)["losses"]
        for side, losses in curves.items():
            print(f"| {model} | {side} | " + " | ".join(windows(losses)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="how often each side runs (default 3)")
    parser.add_argument("--seeds", type=int, default=5, help="runs whose losses are averaged (default 5)")
    arguments = parser.parse_args()

    python = peer_python("bench-venv", REQUIREMENTS)
    for model in MODELS:
        ours(model, "--write", clips(model))
    counts = [1, CORES] if CORES > 1 else [1]
    table = {
        (model, at_once): rates(python, model, at_once, arguments.pairs) for model in MODELS for at_once in counts
    }

    print(f"\ntraining steps, batches of 32, {describe_machine()}, medians of {arguments.pairs}")
    print("samples a second a core\n")
    print("| model | at once | PyTorch eager | PyTorch tuned | Earshot | times eager | times tuned | per core | with --bf16 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (model, at_once), rate in table.items():
        eager, tuned, our = rate["eager"], rate["tuned"], rate["Earshot"]
        scaling = our / table[model, 1]["Earshot"]
        bf16 = f"{rate['bf16']:.0f} ({rate['bf16'] / our:.2f} times)" if HAS_BF16 else "not here"
        print(
            f"| {MODELS[model]} | {at_once} | {eager:.0f} | {tuned:.0f} | {our:.0f} "
            f"| **{our / eager:.1f}** | **{our / tuned:.1f}** | {scaling:.2f} | {bf16} |"
        )
    print_curves(python, arguments.seeds)


if __name__ == "__main__":
    main()
