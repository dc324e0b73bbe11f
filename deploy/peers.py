"""Puts the virtual environment together that the tests of exported bundles run in, and prints its interpreter.

    python3 deploy/peers.py

It lies in the user's cache folder and is made anew when `tests/python/requirements.txt` changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earshot"
REQUIREMENTS = Path(__file__).resolve().parent.parent / "tests" / "python" / "requirements.txt"


def interpreter() -> Path:
    """The environment's interpreter; the stamp is written last, so its presence means that all else is there."""
    if sys.version_info < (3, 10):
        sys.exit("peers: Python 3.10 or newer is needed, this is " + sys.version.split()[0])
    pins = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    folder = CACHE / "test-venv"
    stamp, python = folder / "pins", folder / "bin" / "python"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "test-venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == pins:
            return python
        print(f"installing librosa and onnxruntime into {folder}, for the tests", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError:
            sys.exit("peers: no virtual environment: sudo apt-get install -y python3-venv")
        install = [str(python), "-m", "pip", "install", "--no-cache-dir", "--quiet", "-r", str(REQUIREMENTS)]
        if subprocess.run(install, stdout=sys.stderr).returncode != 0:
            sys.exit("peers: pip could not install " + str(REQUIREMENTS))
        stamp.write_text(pins, encoding="utf-8")
    return python


if __name__ == "__main__":
    print(interpreter())
