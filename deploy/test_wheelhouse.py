"""Checks what `make setup` relies on, against a package index served from this process."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import tempfile
import threading
import unittest
import unittest.mock
from collections.abc import Iterator
from pathlib import Path

import setup
from wheelhouse import Index, SetupError, Wheel, Wheelhouse, load_pins

CONTENT = bytes(range(256)) * 4096
WHEEL = Wheel("thing", "1.0", "thing-1.0-py3-none-any.whl", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class FakeIndex(http.server.ThreadingHTTPServer):
    """Serves `CONTENT` as the only wheel; tests change how."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeIndexHandler)
        self.content = CONTENT
        self.speaks_json = True
        self.honours_ranges = True
        # How many bytes an answer carries before the connection breaks.
        self.breaks_after = len(CONTENT)
        self.offsets_asked: list[int] = []


class FakeIndexHandler(http.server.BaseHTTPRequestHandler):
    server: FakeIndex

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/simple/"):
            self.answer_page()
        else:
            self.answer_file()

    def answer_page(self) -> None:
        link = f"../../files/{WHEEL.file}#sha256={WHEEL.sha256}"
        if self.server.speaks_json:
            kind, page = "application/vnd.pypi.simple.v1+json", json.dumps({"files": [{"url": link}]})
        else:
            kind, page = "text/html", f'<a href="{link}">{WHEEL.file}</a>'
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(page.encode())

    def answer_file(self) -> None:
        asked = self.headers.get("Range", "bytes=0-")
        offset = int(asked[len("bytes=") : -1]) if self.server.honours_ranges else 0
        self.server.offsets_asked.append(offset)
        rest = self.server.content[offset:]
        self.send_response(206 if offset else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.breaks_after])


@contextlib.contextmanager
def serving() -> Iterator[tuple[FakeIndex, Wheelhouse]]:
    """A fake index, and an empty wheelhouse that downloads from it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(FakeIndex())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        index_url = f"http://127.0.0.1:{server.server_port}/simple/"
        stack.enter_context(unittest.mock.patch.dict(os.environ, {"PIP_INDEX_URL": index_url}))
        stack.enter_context(unittest.mock.patch("time.sleep"))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield server, Wheelhouse(Path(folder), Index())


class Downloads(unittest.TestCase):
    def test_a_wheel_arrives_whole_from_either_form_of_index(self) -> None:
        for speaks_json in (True, False):
            with self.subTest(json=speaks_json), serving() as (server, wheelhouse):
                server.speaks_json = speaks_json
                self.assertEqual(wheelhouse.fetch(WHEEL).read_bytes(), CONTENT)

    def test_a_second_fetch_asks_for_nothing(self) -> None:
        with serving() as (server, wheelhouse):
            wheelhouse.fetch(WHEEL)
            wheelhouse.fetch(WHEEL)
            self.assertEqual(server.offsets_asked, [0])

    def test_a_broken_connection_is_taken_up_where_it_broke(self) -> None:
        with serving() as (server, wheelhouse):
            server.breaks_after = 400_000
            self.assertEqual(wheelhouse.fetch(WHEEL).read_bytes(), CONTENT)
            self.assertEqual(server.offsets_asked, [0, 400_000, 800_000])

    def test_a_server_without_ranges_sends_the_whole_file_again(self) -> None:
        with serving() as (server, wheelhouse):
            server.honours_ranges = False
            wheelhouse.partial_path(WHEEL).write_bytes(CONTENT[:1000])
            self.assertEqual(wheelhouse.fetch(WHEEL).read_bytes(), CONTENT)

    def test_a_partial_file_longer_than_the_wheel_is_thrown_away(self) -> None:
        with serving() as (_, wheelhouse):
            wheelhouse.partial_path(WHEEL).write_bytes(CONTENT + b"more")
            self.assertEqual(wheelhouse.fetch(WHEEL).read_bytes(), CONTENT)

    def test_another_file_than_the_pinned_one_is_refused_and_deleted(self) -> None:
        with serving() as (server, wheelhouse):
            server.content = CONTENT[::-1]
            with self.assertRaisesRegex(SetupError, WHEEL.sha256):
                wheelhouse.fetch(WHEEL)
            self.assertEqual(list(wheelhouse.folder.iterdir()), [])

    def test_an_index_without_the_wheel_is_named(self) -> None:
        other = Wheel("thing", "2.0", "thing-2.0-py3-none-any.whl", 1, "")
        with serving() as (_, wheelhouse), self.assertRaisesRegex(SetupError, "does not list thing-2.0"):
            wheelhouse.fetch(other)


class Places(unittest.TestCase):
    def check(self, bundle: setup.Bundle, member: str, expected: str | None) -> None:
        self.assertEqual(bundle.place(member), expected, member)

    def test_the_cpu_bundle_takes_what_libtorch_cpu_is_linked_to(self) -> None:
        self.check(setup.CPU, "torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so")
        self.check(setup.CPU, "torch/lib/libgomp.so.1", "lib/libgomp.so.1")
        self.check(setup.CPU, "torch/include/ATen/ATen.h", "include/ATen/ATen.h")
        self.check(setup.CPU, "nvidia/cu13/lib/libcudart.so.13", "lib/libcudart.so.13")
        self.check(setup.CPU, "nvidia/cu13/lib/libcupti.so.13", "lib/libcupti.so.13")
        self.check(setup.CPU, "nvidia/cu13/lib/libnvperf_host.so", None)
        self.check(setup.CPU, "torch/lib/libtorch_cuda.so", None)
        self.check(setup.CPU, "torch/lib/libtorch_python.so", None)
        self.check(setup.CPU, "torch/nn/functional.py", None)
        self.check(setup.CPU, "torch-2.11.0.dist-info/licenses/LICENSE", "licenses/torch/LICENSE")

    def test_the_cuda_bundle_takes_every_library_but_pythons(self) -> None:
        self.check(setup.CUDA, "torch/lib/libtorch_cuda.so", "lib/libtorch_cuda.so")
        self.check(setup.CUDA, "nvidia/cudnn/lib/libcudnn.so.9", "lib/libcudnn.so.9")
        self.check(setup.CUDA, "nvidia/cu13/lib/libnvrtc.alt.so.13", None)
        self.check(setup.CUDA, "torch/lib/libtorch_python.so", None)

    def test_every_bundle_is_pinned_for_both_architectures(self) -> None:
        for machine in ("x86_64", "aarch64"):
            pins = load_pins(setup.PINS, machine)
            for bundle in (setup.CPU, setup.CUDA, setup.ONNXRUNTIME):
                for project in bundle.projects:
                    self.assertRegex(pins[project].file, f"{machine}[.]whl$")
                self.assertEqual(pins[bundle.projects[0]].version, bundle.version)


if __name__ == "__main__":
    unittest.main()
