"""`make bench`: Earshot and Optuna with PyTorch train the same 24-trial grid on the same features, in turn.

    python3 benches/run.py [--data DIR] [--pairs N]

Both sides start from prepared features and train one thread a trial, as many trials at a time as there are cores.
A side's time is the wall time of its whole command: start of the processes, training, every result kept on disk.
The sides alternate, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earshot"
WORK = ROOT / "target" / "bench"
REQUIREMENTS = ROOT / "benches" / "requirements.txt"
COORDINATOR = ROOT / "target" / "release" / "coordinator"
WORKER = ROOT / "target" / "release" / "worker"
SWEEP = ROOT / "sweeps" / "grid.toml"
# Recordings to use when none are named; without any, synthetic ones are made.
DATA_FOLDERS = (ROOT / "data" / "raw", ROOT.parent / "shared" / "esc10")

CORES = len(os.sched_getaffinity(0))
RUN_S_MAX = 3600
ADDRESS_S_MAX = 120


@dataclass(frozen=True)
class Outcome:
    """One side's run of the grid."""

    seconds: float
    trials: int
    best_accuracy: float


def run(*command: str | Path) -> str:
    """Runs a command to its end and returns what it printed; a failure ends the benchmark."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, timeout=RUN_S_MAX)
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(arguments)} failed with {done.returncode}\n{done.stdout}")
    return done.stdout


# --- The peers' environment -------------------------------------------------------------------------------


def peer_python(name: str, requirements: Path) -> Path:
    """The interpreter of a virtual environment with the pinned peers, made anew when the pins change."""
    if sys.version_info < (3, 10):
        sys.exit("bench: the peers need Python 3.10 or newer; make setup, test and demo do not")
    pins = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    folder = CACHE / name
    stamp = folder / "pins"
    python = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == pins:
        return python
    print(f"installing the peers into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True)
    except subprocess.CalledProcessError:
        sys.exit("bench: Python cannot make virtual environments: sudo apt-get install -y python3-venv")
    run(python, "-m", "pip", "install", "--no-cache-dir", "--quiet", "-r", requirements)
    stamp.write_text(pins, encoding="utf-8")
    return python


# --- The recordings ---------------------------------------------------------------------------------------


def choose_data(given: Path | None) -> Path:
    """The folder of recordings: the given one, else real clips if there are any, else synthetic ones."""
    for folder in [given] if given else DATA_FOLDERS:
        if (folder / "meta" / "esc50.csv").is_file():
            return folder.resolve()
    if given:
        sys.exit(f"bench: {given} has no meta/esc50.csv")
    synthetic = WORK / "synthetic"
    run(COORDINATOR, "data", "synth", "--out", synthetic)
    return synthetic


# --- The two sides ----------------------------------------------------------------------------------------


def run_earshot(data: Path, processed: Path, folder: Path) -> Outcome:
    """The grid on a coordinator and one worker with a slot a core, from start to the coordinator's end."""
    seconds, database = run_sweep(SWEEP, {"data.root": data, "data.processed": processed}, folder)
    return outcome_of_leaderboard(seconds, database)


def run_sweep(sweep: Path, settings: dict[str, object], folder: Path) -> tuple[float, Path]:
    """Runs a sweep to its end in this folder: its wall time, and its database."""
    database = folder / "sweep.redb"
    address_file = folder / "address"
    serve = [str(COORDINATOR), "start", "--sweep", str(sweep), "--exit-when-done"]
    serve += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    serve += ["--listen", "127.0.0.1:0", "--address-file", str(address_file), "--db", str(database)]
    log = (folder / "log").open("w")
    started = time.monotonic()
    coordinator = subprocess.Popen(serve, stdout=log, stderr=log, cwd=folder)
    worker = None
    try:
        address = wait_for_address(address_file, coordinator)
        join = [str(WORKER), "--coordinator", f"http://{address}", "--slots", str(CORES), "--exit-when-done"]
        worker = subprocess.Popen(join, stdout=log, stderr=log, cwd=folder)
        code = coordinator.wait(timeout=RUN_S_MAX)
        seconds = time.monotonic() - started
    finally:
        for process in (coordinator, worker):
            if process and process.poll() is None:
                process.terminate()
                process.wait(timeout=30)
        log.close()
    if code != 0:
        sys.exit(f"bench: the coordinator ended with {code}, see {folder / 'log'}")
    return seconds, database


def wait_for_address(address_file: Path, coordinator: subprocess.Popen[bytes]) -> str:
    """The address that the coordinator writes once it listens."""
    give_up = time.monotonic() + ADDRESS_S_MAX
    while not address_file.exists():
        if coordinator.poll() is not None or time.monotonic() > give_up:
            sys.exit(f"bench: the coordinator did not start, see {address_file.parent / 'log'}")
        time.sleep(0.01)
    return address_file.read_text(encoding="utf-8").strip()


def outcome_of_leaderboard(seconds: float, database: Path) -> Outcome:
    rows = json.loads(run(COORDINATOR, "leaderboard", "--db", database, "--top", "0", "--format", "json"))["rows"]
    return Outcome(seconds, len(rows), max(row["accuracy"] for row in rows))


def run_optuna(python: Path, data: Path, processed: Path, folder: Path) -> Outcome:
    script = ROOT / "benches" / "optuna_grid.py"
    started = time.monotonic()
    output = run(
        python,
        script,
        *("--features", processed / "features"),
        *("--meta", data / "meta" / "esc50.csv"),
        *("--journal", folder / "journal.log"),
        *("--processes", str(CORES)),
    )
    seconds = time.monotonic() - started
    result = json.loads(output)
    return Outcome(seconds, result["points"], result["accuracies"][0])


# --- The table --------------------------------------------------------------------------------------------


def describe_machine() -> str:
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {CORES} cores"


def print_table(data: Path, ours: list[Outcome], peers: list[Outcome]) -> None:
    our_s = statistics.median(outcome.seconds for outcome in ours)
    peer_s = statistics.median(outcome.seconds for outcome in peers)
    print(f"\n24-trial grid, 10 epochs, {data.name}, {describe_machine()}, median of {len(ours)}\n")
    print("| side | wall time (s) | all runs (s) | distinct trials | best accuracy | ratio to peer |")
    print("|---|---|---|---|---|---|")
    for name, outcomes, seconds in (
        ("Earshot", ours, our_s),
        ("Optuna 5.0.0 + PyTorch 2.11.0", peers, peer_s),
    ):
        runs = ", ".join(f"{outcome.seconds:.1f}" for outcome in outcomes)
        best = max(outcome.best_accuracy for outcome in outcomes)
        trials = min(outcome.trials for outcome in outcomes)
        print(f"| {name} | {seconds:.1f} | {runs} | {trials} | {best:.3f} | {seconds / peer_s:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="recordings in ESC-50's layout")
    parser.add_argument("--pairs", type=int, default=3, help="how often each side runs (default 3)")
    arguments = parser.parse_args()

    # PyTorch brings its CUDA libraries: 2.6 GB to fetch, 4.7 GB on disk.
    python = peer_python("bench-venv", REQUIREMENTS)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    data = choose_data(arguments.data)
    processed = WORK / "processed"
    print(f"preparing {data}", flush=True)
    run(COORDINATOR, "data", "prepare", "--data", data, "--out", processed)

    ours: list[Outcome] = []
    peers: list[Outcome] = []
    for number in range(1, arguments.pairs + 1):
        folder = WORK / f"pair-{number}"
        folder.mkdir()
        ours.append(run_earshot(data, processed, folder))
        print(f"pair {number}: Earshot {ours[-1].seconds:.1f} s", flush=True)
        peers.append(run_optuna(python, data, processed, folder))
        print(f"pair {number}: Optuna  {peers[-1].seconds:.1f} s", flush=True)
    print_table(data, ours, peers)


if __name__ == "__main__":
    main()
