"""Downloads pinned wheels from a Python package index: resumable, and verified by SHA-256 before use.

Standard library only, because `make setup` runs before anything is installed. Read in this order:
`Wheel` (a pin), `Index` (where its file is), `Wheelhouse` (the folder it is downloaded to).
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import html.parser
import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PUBLIC_INDEX = "https://pypi.org/simple"
TIMEOUT_S = 60
# In a row, with not one byte gained between them; with the doubling delay, about a minute.
FAILURES_MAX = 6
CHUNK_BYTES = 1 << 20
# The simple API in JSON (PEP 691) where the index has it, else in HTML (PEP 503).
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"

NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


class SetupError(Exception):
    """Something the user has to mend; the message says what and how."""


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel file."""

    project: str
    version: str
    file: str
    bytes: int
    sha256: str


def load_pins(path: Path, machine: str) -> dict[str, Wheel]:
    """The wheels pinned in `path` for one processor architecture, by project name."""
    pins = json.loads(path.read_text(encoding="utf-8"))
    return {
        pin["project"]: Wheel(pin["project"], pin["version"], **pin[machine])
        for pin in pins["wheels"]
        if machine in pin
    }


# --- The index --------------------------------------------------------------------------------------------


def pip_setting(name: str) -> str | None:
    """A `[global]` setting of pip, from its environment variable or its configuration files."""
    if value := os.environ.get("PIP_" + name.upper().replace("-", "_")):
        return value
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", config_home / "pip/pip.conf"]
    files += [Path(sys.prefix) / "pip.conf", Path(os.environ.get("PIP_CONFIG_FILE", os.devnull))]
    parser = configparser.RawConfigParser()
    parser.read(files, encoding="utf-8")
    return parser.get("global", name, fallback=None)


class LinkParser(html.parser.HTMLParser):
    """Collects the `href` of every link of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


class Index:
    """A Python package index: the one pip is configured for, or the public one."""

    def __init__(self) -> None:
        url = pip_setting("index-url") or PUBLIC_INDEX
        parts = urllib.parse.urlsplit(url.rstrip("/"))
        self.host = parts.netloc.rpartition("@")[2]
        self.url = parts._replace(netloc=self.host).geturl()
        self.authorization = basic_authorization(parts)
        # SSL_CERT_FILE and SSL_CERT_DIR are honoured by the default context itself.
        self.ssl_context = ssl.create_default_context()
        if bundle := pip_setting("cert") or os.environ.get("REQUESTS_CA_BUNDLE"):
            self.ssl_context.load_verify_locations(cafile=bundle)

    def open(self, url: str, headers: dict[str, str]) -> Any:
        """Sends a GET request; the index's credentials go to the index's own host only."""
        if self.authorization and urllib.parse.urlsplit(url).netloc == self.host:
            headers = {**headers, "Authorization": self.authorization}
        request = urllib.request.Request(url, headers={"User-Agent": "earshot-setup", **headers})
        return urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self.ssl_context)

    def file_url(self, wheel: Wheel) -> str:
        """Where the index keeps a wheel's file."""
        page_url = f"{self.url}/{wheel.project}/"
        with self.open(page_url, {"Accept": ACCEPT}) as response:
            is_json = response.headers.get_content_type().endswith("+json")
            page = response.read().decode("utf-8")
        if is_json:
            links: list[str] = [entry["url"] for entry in json.loads(page)["files"]]
        else:
            parser = LinkParser()
            parser.feed(page)
            links = parser.links
        for link in links:
            url = urllib.parse.urldefrag(urllib.parse.urljoin(page_url, link)).url
            if urllib.parse.unquote(url.rsplit("/", 1)[-1]) == wheel.file:
                return url
        raise SetupError(f"{page_url} does not list {wheel.file}")


def basic_authorization(parts: urllib.parse.SplitResult) -> str | None:
    """The header for the user and password in an index's URL, if it has them."""
    if parts.username is None:
        return None
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


# --- The folder of downloads ------------------------------------------------------------------------------


class Wheelhouse:
    """A folder of verified wheels; a file under its final name has the pinned SHA-256."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index

    def path(self, wheel: Wheel) -> Path:
        return self.folder / wheel.file

    def partial_path(self, wheel: Wheel) -> Path:
        return self.folder / (wheel.file + ".part")

    def bytes_missing(self, wheels: list[Wheel]) -> int:
        """What is still to be downloaded of these wheels."""
        return sum(
            wheel.bytes - file_bytes(self.partial_path(wheel))
            for wheel in wheels
            if not self.path(wheel).exists()
        )

    def fetch(self, wheel: Wheel) -> Path:
        """The wheel's file, downloaded if it is not here yet."""
        path = self.path(wheel)
        if path.exists() and sha256(path) == wheel.sha256:
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        self.download(wheel)
        self.verify(wheel)
        os.replace(self.partial_path(wheel), path)
        return path

    def download(self, wheel: Wheel) -> None:
        """Completes the `.part` file; a broken connection is taken up again where it broke."""
        failures = 0
        while True:
            done_before = file_bytes(self.partial_path(wheel))
            try:
                return self.resume(wheel)
            except NETWORK_ERRORS as error:
                made_progress = file_bytes(self.partial_path(wheel)) > done_before
                failures = 1 if made_progress else failures + 1
                refused = isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404)
                if failures == FAILURES_MAX or refused:
                    raise SetupError(
                        f"cannot download {wheel.file} from {self.index.url}: {error}\n"
                        "       look at the network, at PIP_INDEX_URL (another package index) and at "
                        "SSL_CERT_FILE (another certificate bundle);\n"
                        "       then run it again: it goes on where it stopped"
                    ) from error
                delay_s = 2**failures
                print(f"  {error}; trying again in {delay_s} s", flush=True)
                time.sleep(delay_s)

    def resume(self, wheel: Wheel) -> None:
        """Asks for the bytes that the `.part` file lacks and appends them."""
        partial = self.partial_path(wheel)
        done = file_bytes(partial)
        if done > wheel.bytes:
            partial.unlink()
            done = 0
        if done == wheel.bytes:
            return
        url = self.index.file_url(wheel)
        headers = {"Range": f"bytes={done}-"} if done else {}
        with self.index.open(url, headers) as response:
            # A server that ignores the range answers 200 with the whole file.
            mode = "ab" if response.status == 206 else "wb"
            progress = Progress(wheel, done if mode == "ab" else 0)
            with partial.open(mode) as file:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    progress.advance(len(chunk))
        if file_bytes(partial) < wheel.bytes:
            raise ConnectionError("the connection ended early")
        progress.finish()

    def verify(self, wheel: Wheel) -> None:
        """Refuses, and deletes, a download that is not the pinned file."""
        partial = self.partial_path(wheel)
        found = sha256(partial)
        if found != wheel.sha256:
            partial.unlink()
            raise SetupError(
                f"{wheel.file} from {self.index.url} has SHA-256\n       {found}, pinned is\n"
                f"       {wheel.sha256}; the download was deleted.\n"
                "       Run it again; if it stays so, the index does not serve the original file"
            )

    def remove(self, wheel: Wheel) -> None:
        self.path(wheel).unlink(missing_ok=True)


def file_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class Progress:
    """One line for each download: redrawn on a terminal, a line a quarter elsewhere."""

    def __init__(self, wheel: Wheel, done: int) -> None:
        self.wheel = wheel
        self.done = done
        self.steps_shown = -1
        self.is_terminal = sys.stdout.isatty()
        self.advance(0)

    def advance(self, count: int) -> None:
        self.done += count
        percent = 100 * self.done // self.wheel.bytes
        steps = percent // (1 if self.is_terminal else 25)
        if steps > self.steps_shown:
            self.steps_shown = steps
            label = f"{self.wheel.project} {self.wheel.version}"
            line = f"  {label:<34} {percent:>3} % of {self.wheel.bytes / 1e6:,.0f} MB"
            print(line, end="\r" if self.is_terminal else "\n", flush=True)

    def finish(self) -> None:
        if self.is_terminal:
            print(flush=True)
