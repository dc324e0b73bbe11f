"""The guide's commands, run; the units, checked. Binaries: BIN, else cargo's debug folder.

The coordinator and everything else run on two hosts, which are network namespaces; on loopback where there can be none.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

DEPLOY = pathlib.Path(__file__).resolve().parent
GUIDE_S_MAX = 300

SWEEP = """
name = "guide"
[data]
root = "raw"
processed = "processed"
[split]
kind = "folds"
validation = [1]
test = [5]
[space]
learning_rate = { choice = [1e-3, 3e-4] }
filters = [8, 16]
[schedule]
epochs = 2
"""


def binaries():
    """The folder of both binaries, or None."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", DEPLOY.parent / "target"))
    folder = pathlib.Path(os.environ.get("BIN", target / "debug")).resolve()
    return folder if all((folder / name).exists() for name in ("coordinator", "worker")) else None


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def two_hosts():
    """The coordinator's and another's names and the address of the first, or None where there can be no namespaces."""
    coordinator, other = (f"earshot-{os.getpid()}-{name}" for name in ("coordinator", "other"))
    with contextlib.ExitStack() as stack:
        try:
            for host in (coordinator, other):
                ip("netns", "add", host)
                stack.callback(ip, "netns", "delete", host)
            ip("-n", coordinator, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other)
            for number, host in enumerate((coordinator, other), start=1):
                ip("-n", host, "address", "add", f"10.78.0.{number}/24", "dev", "eth0")
                ip("-n", host, "link", "set", "lo", "up")
                ip("-n", host, "link", "set", "eth0", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"on loopback, for there can be no network namespaces here: {error}")
            yield None
        else:
            yield coordinator, other, "10.78.0.1"


def at_hosts(folder, programs, coordinator, other):
    """Programs in `folder` that run the real ones where the guide has them: only `coordinator start` on the coordinator's host."""
    folder.mkdir()
    for name in ("coordinator", "worker"):
        host = f'$([ "{name} $1" = "coordinator start" ] && echo {coordinator} || echo {other})'
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec ip netns exec "{host}" "{programs}/{name}" "$@"\n')
        program.chmod(0o755)


class Guide(unittest.TestCase):
    def test_its_commands_do_what_it_says(self):
        folder = binaries()
        if folder is None:
            self.skipTest("no binaries: cargo build -p coordinator -p worker")
        text = (DEPLOY / "README.md").read_text()
        blocks = re.findall(r"\*Run by the tests:\*\n\n```sh\n(.*?)```", text, flags=re.DOTALL)
        self.assertEqual(len(blocks), 4)
        with tempfile.TemporaryDirectory() as work, two_hosts() as hosts:
            address = "127.0.0.1"
            programs = folder
            if hosts is not None:
                *names, address = hosts
                programs = pathlib.Path(work) / "bin"
                at_hosts(programs, folder, *names)
            environment = {
                "PATH": f"{programs}:{os.environ['PATH']}",
                "HOME": work,
                "HOST": address,
                "PORT": str(free_port()),
                "SWEEP": "guide.toml",
            }
            (pathlib.Path(work) / "guide.toml").write_text(SWEEP)
            synth = [folder / "coordinator", "data", "synth", "--clips-per-class", "10", "--out", "raw"]
            subprocess.run(synth, cwd=work, check=True, capture_output=True)
            output = self.run_blocks(blocks, work, environment)
            self.assertIn('"state":"completed"', output.replace(" ", ""))
            self.assertTrue((pathlib.Path(work) / "champion/model.int8.onnx").exists(), output)
            secret = (pathlib.Path(work) / "workers.token").read_text().strip()
            self.assertNotIn(secret, output)
            self.assertEqual(os.stat(pathlib.Path(work) / "workers.token").st_mode & 0o077, 0)

    def run_blocks(self, blocks, work, environment):
        """Runs them in one shell, and ends whatever it started."""
        with open(pathlib.Path(work) / "output", "w+") as log:
            shell = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = shell.wait(GUIDE_S_MAX)
            finally:
                # The coordinator and the workers are left in the shell's group.
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
            log.seek(0)
            output = log.read()
        self.assertEqual(code, 0, output)
        return output


class Units(unittest.TestCase):
    def test_systemd_takes_them(self):
        if shutil.which("systemd-analyze") is None:
            self.skipTest("no systemd-analyze here")
        with tempfile.TemporaryDirectory() as work:
            names = []
            for unit in sorted((DEPLOY / "systemd").glob("*.service")):
                # The programs need not be installed where the test runs.
                text = re.sub(r"/opt/earshot/bin/\w+", "/bin/true", unit.read_text())
                copy = pathlib.Path(work) / unit.name
                copy.write_text(text)
                names.append(str(copy))
            self.assertEqual(len(names), 2)
            verify = subprocess.run(
                ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, check=False
            )
            self.assertEqual((verify.returncode, verify.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
