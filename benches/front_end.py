"""Part of `make bench`: the front end against librosa 0.11 on the same clips, in turn.

    python3 benches/front_end.py [--data DIR] [--pairs N] [--clips N]

Each step on one thread, from Ogg (or whatever the recordings are), WAV and FLAC; then the preparation of the whole dataset
on all cores. The sides alternate, so that a machine that slows down slows both; the table shows medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path

from run import COORDINATOR, CORES, ROOT, WORK, choose_data, describe_machine, peer_python, run

REQUIREMENTS = ROOT / "data" / "tests" / "golden" / "requirements.txt"
PEER = ROOT / "benches" / "librosa_peer.py"
FORMATS = ("wav", "flac")
# The steps that are shown, and what they are.
STEPS = {
    "load": "decode",
    "trim": "trim and normalise",
    "mfcc": "13 MFCCs of 5 s",
    "spectrogram": "dB spectrogram of 5 s",
    "chain": "decode to MFCC, all of the above but the spectrogram",
}
# A library that would use all cores for one matrix product must not, on either side.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}

Steps = dict[str, float]


def our_steps(data: Path, clips: int) -> Steps:
    arguments = ["--data", data, "--clips", str(clips), "--rounds", "3", "--format", "json"]
    bench = ["cargo", "bench", "--quiet", "--locked", "-p", "earshot-data", "--bench", "front_end", "--"]
    return json.loads(run(*bench, *arguments).splitlines()[-1])


def their_steps(python: Path, data: Path, clips: int) -> Steps:
    return json.loads(run(python, PEER, "stages", data, "--clips", str(clips), "--rounds", "3"))


def our_preparation(data: Path, out: Path) -> float:
    started = time.monotonic()
    run(COORDINATOR, "data", "prepare", "--data", data, "--out", out)
    return time.monotonic() - started


def their_preparation(python: Path, data: Path, out: Path) -> float:
    return json.loads(run(python, PEER, "prepare", data, "--out", out, "--processes", str(CORES)))["seconds"]


def preparations(python: Path, data: Path, pairs: int) -> list[tuple[float, float]]:
    """Each into a folder of its own, all removed at the end: for a minute after many files went, ext4 is slow to make new ones."""
    folder = WORK / "preparations"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    times = [
        (our_preparation(data, folder / f"ours-{pair}"), their_preparation(python, data, folder / f"theirs-{pair}"))
        for pair in range(pairs)
    ]
    shutil.rmtree(folder)
    return times


def print_row(what: str, ours: list[float], theirs: list[float], unit: str) -> None:
    our, their = statistics.median(ours), statistics.median(theirs)
    print(f"| {what} | {our:.2f} {unit} | {their:.2f} {unit} | **{their / our:.1f}** |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="recordings in ESC-50's layout")
    parser.add_argument("--pairs", type=int, default=3, help="how often each side runs (default 3)")
    parser.add_argument("--clips", type=int, default=100, help="clips for the steps on one thread (default 100)")
    arguments = parser.parse_args()

    os.environ.update(ONE_THREAD)
    python = peer_python("bench-librosa", REQUIREMENTS)
    WORK.mkdir(parents=True, exist_ok=True)
    data = choose_data(arguments.data)
    sources = {"as recorded": data}
    for name in FORMATS:
        sources[name] = WORK / name
        run(python, PEER, "transcode", data, "--out", sources[name], "--format", name)

    steps = [
        (name, our_steps(source, arguments.clips), their_steps(python, source, arguments.clips))
        for _ in range(arguments.pairs)
        for name, source in sources.items()
    ]
    prepared = preparations(python, data, arguments.pairs)

    print(f"\nfront end, {data.name}, {describe_machine()}, medians of {arguments.pairs}\n")
    print("| what | Earshot | librosa 0.11.0 | times as fast |")
    print("|---|---|---|---|")
    for source in sources:
        for step, what in STEPS.items():
            # Only what begins with a file depends on its format.
            if source == "as recorded" or step in ("load", "chain"):
                of_source = [(ours[step], theirs[step]) for name, ours, theirs in steps if name == source]
                print_row(f"{what} ({source})", *map(list, zip(*of_source)), "ms")
    print_row(f"prepare the dataset on {CORES} cores", *map(list, zip(*prepared)), "s")


if __name__ == "__main__":
    main()
