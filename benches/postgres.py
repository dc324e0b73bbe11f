"""A PostgreSQL of one's own for the time of a benchmark: on loopback, in a folder that is removed afterwards.

    with started(folder) as url: ...

Its settings are its defaults, so a commit that returned is on disk.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")
# Who it runs as where we are root, which it refuses to be; the first that there is.
USERS = ("postgres", "nobody")
USER = "bench"
# Each proxy holds a few dozen.
CONNECTIONS_MAX = 200
START_S_MAX = 60


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL that is installed."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


def version(folder: Path) -> str:
    return subprocess.run([folder / "postgres", "--version"], stdout=subprocess.PIPE, text=True).stdout.split()[2]


def account() -> dict[str, object]:
    """Arguments of `subprocess` that make a command somebody other than root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    return {"user": next(name for name in USERS if name in names), "extra_groups": []}


@contextlib.contextmanager
def started(folder: Path) -> Iterator[str]:
    """The URL of a new, empty database whose files lie in `folder`, which exists."""
    programs, somebody = binaries(), account()
    if "user" in somebody:
        shutil.chown(folder, somebody["user"])
    data, log = folder / "data", folder / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = f"-h 127.0.0.1 -p {port} -k '' -N {CONNECTIONS_MAX}"

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **somebody)

    run(programs / "initdb", "--pgdata", data, "--auth", "trust", "--username", USER)
    control = (programs / "pg_ctl", "--pgdata", data, "--wait", "--timeout", str(START_S_MAX))
    run(*control, "--log", log, "--options", settings, "start")
    try:
        yield f"postgresql+psycopg2://{USER}@127.0.0.1:{port}/postgres"
    finally:
        run(*control, "--mode", "fast", "stop")
