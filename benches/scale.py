"""A part of `make bench`: how much a coordinator bears, beside Optuna's gRPC storage proxy over PostgreSQL.

    python3 benches/scale.py [--workers 10,100,1000] [--seconds N]

Simulated workers do the same on both sides: ask for a run, report ten epochs, end it, and begin anew, as fast as they are answered;
training takes no time. Every answer stands for something that is on disk. The sides take turns, on the same folder's disk; workers
and coordinator share the machine. Without PostgreSQL only our side is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import postgres
from run import ROOT, describe_machine, peer_python, run

PEER = ROOT / "benches" / "optuna_scale.py"
REQUIREMENTS = ROOT / "benches" / "requirements-scale.txt"
# On a disk by convention, which /tmp may not be.
FOLDER = Path("/var/tmp")
INSTALL = "there is no PostgreSQL, so Optuna is left out: sudo apt-get install -y postgresql (it need not run)"


def ours(folder: Path, workers: int, seconds: int, reports_hz: str, trials: int) -> dict:
    """Our bench's findings."""
    bench = ["cargo", "bench", "--quiet", "--locked", "-p", "coordinator", "--bench", "scale", "--"]
    flags = ["--workers", str(workers), "--seconds", str(seconds), "--dir", folder]
    flags += ["--reports-hz", reports_hz, "--trials", str(trials), "--format", "json"]
    return json.loads(run(*bench, *flags).splitlines()[-1])


def theirs(python: Path, workers: int, seconds: int) -> dict:
    """Optuna's, with a database of its own, so that no earlier trials slow it."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder, postgres.started(Path(folder)) as url:
        flags = ["--url", url, "--clients", str(workers), "--seconds", str(seconds)]
        return json.loads(run(python, PEER, *flags).splitlines()[-1])


def shown(number: float | None, digits: int = 1) -> str:
    return "–" if number is None else f"{number:,.{digits}f}"


def print_curve(pairs: list[tuple[dict, dict | None]]) -> None:
    print("\n| workers | side | reports/s | runs/s | lease p50, p99 (ms) | report p50, p99 (ms) | reports/s to peer |")
    print("|---|---|---|---|---|---|---|")
    for our, their in pairs:
        for side, found in (("Earshot", our), ("Optuna", their)):
            if found is None:
                continue
            times = [
                f"{shown(found[f'{call}_p50_ms'])}, {shown(found[f'{call}_p99_ms'])}" for call in ("lease", "report")
            ]
            rates = f"{shown(found['reports_hz'], 0)} | {shown(found['runs_hz'])}"
            ratio = "1" if their is found else "–"
            if their and their["reports_hz"] and found is our:
                ratio = f"**{our['reports_hz'] / their['reports_hz']:.0f}**"
            print(f"| {found['workers']} | {side} | {rates} | {times[0]} | {times[1]} | {ratio} |")
        if their and (their["errors"] or their["ready"] < their["workers"]):
            print(f"Of Optuna's {their['workers']}, {their['ready']} were ready and {their['errors']} failed: {their['first_error']}")


def print_load(loads: list[dict]) -> None:
    print(
        "\n| workers | offered/s | reports/s | commits/s | commit (ms) | lease p50, p99 (ms) | report p50, p99 (ms) | "
        "coordinator's cores | workers' cores | coordinator (MB) |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for load in loads:
        offered = "all" if load["offered_hz"] is None else shown(load["offered_hz"], 0)
        print(
            f"| {load['workers']} | {offered} | {shown(load['reports_hz'], 0)} | {shown(load['commits_hz'], 0)} "
            f"| {shown(load['commit_ms'])} | {shown(load['lease_p50_ms'])}, {shown(load['lease_p99_ms'])} "
            f"| {shown(load['report_p50_ms'])}, {shown(load['report_p99_ms'])} | {shown(load['coordinator_cores'], 2)} "
            f"| {shown(load['worker_cores'], 2)} | {shown(load['coordinator_mb'], 0)} |"
        )


def print_volume(volume: dict) -> None:
    print(f"\n{volume['trials']:,} trials, {volume['events']:,} log entries, {volume['log_mb']:.0f} MB of log\n")
    print("| what | found | target |")
    print("|---|---|---|")
    for what, found, target in (
        ("open the database (s)", shown(volume["open_s"]), "5"),
        ("open it after a crash (s)", shown(volume["recover_s"]), "5"),
        ("memory of the process (MB)", shown(volume["rss_mb"], 0), "500"),
        ("leaderboard, all rows (ms)", shown(volume["leaderboard_ms"]), "100"),
        ("of these, while others wait (ms)", shown(volume["board_ms"]), ""),
        ("leaderboard, ten rows (ms)", shown(volume["top_10_ms"], 3), "100"),
        ("status (ms)", shown(volume["status_ms"], 3), ""),
        ("grant one more run (ms)", shown(volume["grant_ms"], 3), ""),
    ):
        print(f"| {what} | {found} | {target} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="10,100,1000", help="at a time (default 10,100,1000)")
    parser.add_argument("--seconds", type=int, default=10, help="how long each is measured (default 10)")
    parser.add_argument("--reports-hz", default="5000,10000,20000", help="rates at which the most workers report")
    parser.add_argument("--trials", type=int, default=100_000, help="of the long sweep (default 100000)")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.workers.split(",")]
    python = peer_python("scale-venv", REQUIREMENTS) if postgres.binaries() else None

    pairs, loads, volume = [], [], None
    print(f"{describe_machine()}; load average {os.getloadavg()[0]:.1f} before", flush=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        for workers in counts:
            # What is asked once is asked with the most.
            besides = (arguments.reports_hz, arguments.trials) if workers == max(counts) else ("", 0)
            found = ours(Path(folder), workers, arguments.seconds, *besides)
            loads += found["eager"]
            pairs.append((loads[-1], theirs(python, workers, arguments.seconds) if python else None))
            print(f"{workers} workers: {pairs[-1]}", flush=True)
            loads += found["paced"]
            volume = found["volume"] or volume
    peer = f"Optuna 5.0.0 over PostgreSQL {postgres.version(postgres.binaries())}" if python else INSTALL
    print(f"\n{describe_machine()}; {arguments.seconds} s each; {peer}; load average {os.getloadavg()[0]:.1f} after")
    print_curve(pairs)
    print_load(loads)
    if volume:
        print_volume(volume)


if __name__ == "__main__":
    main()
