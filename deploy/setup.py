"""`make setup`: checks the machine's tools and puts libtorch and ONNX Runtime together from pinned wheels.

Nothing is installed: libraries go to the user's cache folder, and the git-ignored `.cargo/config.toml` tells cargo
where they are. A second run finds everything in place and does nothing.

    python3 deploy/setup.py [--gpu | --cpu]

Environment: LIBTORCH and ORT_DYLIB_PATH use libraries that are already there, KEEP_WHEELS=1 keeps the downloads,
XDG_CACHE_HOME moves the cache, PIP_INDEX_URL (or pip's configuration) names another package index.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):
    sys.exit("setup: Python 3.9 or newer is needed, this is " + sys.version.split()[0])

import argparse
import contextlib
import fcntl
import fnmatch
import os
import platform
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wheelhouse import Index, SetupError, Wheel, Wheelhouse, load_pins

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earshot"
PINS = Path(__file__).resolve().parent / "wheels.json"
CARGO_CONFIG = ROOT / ".cargo" / "config.toml"
CARGO_CONFIG_MARK = "# Written by `make setup`"
APT_LINE = "sudo apt-get install -y g++ make python3"

TORCH_VERSION = "2.11.0"
# The wheels are built for manylinux_2_28.
GLIBC_MIN = (2, 28)
# Unpacked size over download size, measured: 2.0 for torch's wheels.
UNPACKED_RATIO = 2.2

PYTHON_ONLY = ["torch/lib/libtorch_python.so", "torch/lib/libshm.so", "torch/lib/libtorch_global_deps.so"]
TORCH_CUDA = [
    "torch/lib/libtorch_cuda*",
    "torch/lib/libc10_cuda.so",
    "torch/lib/libcaffe2_nvrtc.so",
    "torch/lib/libtorch_nvshmem.so",
]


@dataclass(frozen=True)
class Bundle:
    """A folder of the cache that is put together from wheels."""

    folder: str
    version: str
    projects: tuple[str, ...]
    # The path inside the bundle of a wheel's member, or None for a member that is not needed.
    place: Callable[[str], str | None]


def place_library(member: str) -> str | None:
    """Every bundle's common part: shared libraries side by side, where `$ORIGIN` finds them, and licences."""
    if fnmatch.fnmatch(member, "*.dist-info/licenses/*") or fnmatch.fnmatch(member, "*.dist-info/LICENSE*"):
        project = member.split("-", 1)[0]
        return f"licenses/{project}/{member.rsplit('/', 1)[-1]}"
    if re.search(r"/lib/[^/]+\.so(\.\d+)*$", member) and ".alt.so" not in member:
        return "lib/" + member.rsplit("/", 1)[-1]
    return None


def place_cuda(member: str) -> str | None:
    """libtorch with CUDA: everything but what only Python loads."""
    if member.startswith("torch/include/"):
        return member[len("torch/") :]
    return None if member in PYTHON_ONLY else place_library(member)


def place_cpu(member: str) -> str | None:
    """libtorch for the processor; of CUDA only the two libraries that libtorch_cpu.so itself is linked to."""
    if any(fnmatch.fnmatch(member, pattern) for pattern in TORCH_CUDA):
        return None
    if member.startswith("nvidia/") and not re.search(r"/(libcudart|libcupti)\.so\.\d+$", member):
        return None
    return place_cuda(member)


def place_onnxruntime(member: str) -> str | None:
    match = re.fullmatch(r"onnxruntime/capi/(libonnxruntime\.so\.[\d.]+)", member)
    if match:
        return "lib/" + match.group(1)
    licences = ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt")
    return "licenses/" + member.rsplit("/", 1)[-1] if member in licences else None


CPU = Bundle(
    folder=f"libtorch-{TORCH_VERSION}-cpu",
    version=TORCH_VERSION,
    projects=("torch", "nvidia-cuda-runtime", "nvidia-cuda-cupti"),
    place=place_cpu,
)
# What torch's own metadata requires on Linux, less what only its Python side uses (triton, cuda-bindings).
CUDA = Bundle(
    folder=f"libtorch-{TORCH_VERSION}-cuda13",
    version=TORCH_VERSION,
    projects=(
        "torch",
        "nvidia-cublas",
        "nvidia-cuda-cupti",
        "nvidia-cuda-nvrtc",
        "nvidia-cuda-runtime",
        "nvidia-cudnn-cu13",
        "nvidia-cufft",
        "nvidia-cufile",
        "nvidia-curand",
        "nvidia-cusolver",
        "nvidia-cusparse",
        "nvidia-cusparselt-cu13",
        "nvidia-nccl-cu13",
        "nvidia-nvjitlink",
        "nvidia-nvshmem-cu13",
        "nvidia-nvtx",
    ),
    place=place_cuda,
)
# At least the API version that the crate `ort` asks for.
ONNXRUNTIME_VERSION = "1.32.0"
ONNXRUNTIME = Bundle(
    folder=f"onnxruntime-{ONNXRUNTIME_VERSION}",
    version=ONNXRUNTIME_VERSION,
    projects=("onnxruntime",),
    place=place_onnxruntime,
)


# --- The machine's tools ----------------------------------------------------------------------------------


def check_tools() -> str:
    """Complains about everything that is missing at once; returns rustc's version."""
    toolchain = (ROOT / "rust-toolchain.toml").read_text(encoding="utf-8")
    (rust_wanted,) = re.findall(r'^channel = "([\d.]+)"', toolchain, re.MULTILINE)
    rust_found, rust_problem = check_rust(rust_wanted)
    problems = [rust_problem, check_compiler()]
    if rust_problem is None:
        problems += [check_rust_component("fmt", "rustfmt", rust_wanted)]
        problems += [check_rust_component("clippy", "clippy", rust_wanted)]
    missing = [problem for problem in problems if problem]
    if missing:
        raise SetupError("this machine lacks\n" + "\n".join(f"       - {problem}" for problem in missing))
    return rust_found


def output_of(*command: str, stdin: str = "") -> tuple[bool, str]:
    """Whether a command ran well, and what it printed."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT)
    except OSError as error:
        return False, str(error)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def check_rust(wanted: str) -> tuple[str, str | None]:
    """rustc's version, and what is wrong with it."""
    if not shutil.which("rustc") or not shutil.which("cargo"):
        return "", f"Rust {wanted}: see https://rustup.rs"
    ran, output = output_of("rustc", "--version")
    match = re.match(r"rustc (\d+)\.(\d+)\.(\d+)", output)
    if not ran or not match:
        return "", f"Rust {wanted}: rustup toolchain install {wanted} --component rustfmt --component clippy"
    if tuple(map(int, match.groups())) < tuple(map(int, wanted.split("."))):
        return "", f"Rust {wanted} (found {match.group(0)}): rustup toolchain install {wanted}"
    return match.group(0)[len("rustc ") :], None


def check_rust_component(subcommand: str, component: str, toolchain: str) -> str | None:
    ran, _ = output_of("cargo", subcommand, "--version")
    return None if ran else f"{component}: rustup component add {component} --toolchain {toolchain}"


def check_compiler() -> str | None:
    compiler = os.environ.get("CXX", "c++")
    program = "#include <optional>\nint main() { return std::optional<int>(0).value(); }\n"
    ran, _ = output_of(compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-", stdin=program)
    return None if ran else f"a C++17 compiler ({compiler} does not work): {APT_LINE}"


def check_platform(instead: str) -> str:
    """The processor architecture, if there are wheels for this machine; `instead` says what to do if not."""
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in ("x86_64", "aarch64"):
        raise SetupError(f"there are no pinned libraries for {platform.system()} on {machine}: {instead}")
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC_MIN:
        wanted = ".".join(map(str, GLIBC_MIN))
        raise SetupError(f"the pinned libraries need glibc {wanted}, this is {libc} {version}: {instead}")
    return machine


# --- Putting a bundle together ----------------------------------------------------------------------------


def assemble(bundle: Bundle, instead: str) -> Path:
    """The bundle's folder; downloads and unpacks it if it is not there."""
    folder = CACHE / bundle.folder
    if is_assembled(folder, bundle.version):
        return folder
    pins = load_pins(PINS, check_platform(instead))
    wheels = [pins[project] for project in bundle.projects]
    wheelhouse = Wheelhouse(CACHE / "downloads", Index())
    check_disk(wheelhouse, wheels)

    print(f"putting {folder} together from {wheelhouse.index.url}", flush=True)
    unpacked = CACHE / (bundle.folder + ".new")
    shutil.rmtree(unpacked, ignore_errors=True)
    for wheel in wheels:
        unpack(wheelhouse.fetch(wheel), bundle, unpacked)
    (unpacked / "build-version").write_text(bundle.version + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unpacked.rename(folder)
    if os.environ.get("KEEP_WHEELS", "0") in ("", "0"):
        for wheel in wheels:
            wheelhouse.remove(wheel)
    return folder


def is_assembled(folder: Path, version: str) -> bool:
    """`build-version` is written last, so its presence means that all else is there."""
    stamp = folder / "build-version"
    return stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == version


def check_disk(wheelhouse: Wheelhouse, wheels: list[Wheel]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    unpacked_bytes = UNPACKED_RATIO * sum(wheel.bytes for wheel in wheels)
    needed_gb = (wheelhouse.bytes_missing(wheels) + unpacked_bytes) / 1e9
    free_gb = shutil.disk_usage(CACHE).free / 1e9
    if free_gb < needed_gb:
        raise SetupError(
            f"{CACHE} has {free_gb:.1f} GB free, {needed_gb:.1f} GB are needed: "
            "make room, or put the cache elsewhere with XDG_CACHE_HOME"
        )


def unpack(wheel_file: Path, bundle: Bundle, folder: Path) -> None:
    """Writes the members of a wheel that the bundle needs to their places."""
    with zipfile.ZipFile(wheel_file) as archive:
        for member in archive.namelist():
            place = None if member.endswith("/") else bundle.place(member)
            if place is None:
                continue
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)


# --- Which libraries to use -------------------------------------------------------------------------------


def problem_with_libtorch(folder: Path) -> str | None:
    """Why a folder cannot be used as LIBTORCH."""
    for needed in ("lib/libtorch_cpu.so", "lib/libc10.so", "include/torch/csrc/api/include/torch/torch.h"):
        if not (folder / needed).exists():
            return f"{folder / needed} is missing"
    stamp = folder / "build-version"
    if not stamp.is_file():
        return f"{stamp} is missing: it has to say {TORCH_VERSION}"
    found = stamp.read_text(encoding="utf-8").strip()
    # A distribution adds its build: 2.11.0+cpu, 2.11.0+cu130.
    wanted = TORCH_VERSION.rpartition(".")[0] + "."
    return None if found.startswith(wanted) else f"{folder} is libtorch {found}, needed is {TORCH_VERSION}"


def choose_libtorch(wish: Bundle | None, configured: str | None) -> Path:
    """LIBTORCH, else the wish, else what an earlier setup chose, else the CPU's."""
    if given := os.environ.get("LIBTORCH"):
        folder = Path(given).resolve()
        if problem := problem_with_libtorch(folder):
            raise SetupError(f"LIBTORCH={given}: {problem}.\n       Unset LIBTORCH to have one downloaded")
        return folder
    if wish is None and configured and problem_with_libtorch(Path(configured)) is None:
        return Path(configured)
    return assemble(wish or CPU, f"unpack libtorch {TORCH_VERSION} for it and set LIBTORCH to its folder")


def choose_onnxruntime(configured: str | None) -> Path:
    """ORT_DYLIB_PATH, else what an earlier setup chose, else the pinned one."""
    if given := os.environ.get("ORT_DYLIB_PATH"):
        library = Path(given).resolve()
        if not library.is_file():
            raise SetupError(f"ORT_DYLIB_PATH={given} is no file. Unset it to have one downloaded")
        return library
    if configured and Path(configured).is_file() and ONNXRUNTIME_VERSION in configured:
        return Path(configured)
    folder = assemble(ONNXRUNTIME, "set ORT_DYLIB_PATH to an ONNX Runtime library for it")
    return folder / "lib" / f"libonnxruntime.so.{ONNXRUNTIME_VERSION}"


# --- Telling cargo ----------------------------------------------------------------------------------------


def read_cargo_config() -> dict[str, str]:
    """What an earlier setup wrote; empty before the first."""
    if not CARGO_CONFIG.exists():
        return {}
    text = CARGO_CONFIG.read_text(encoding="utf-8")
    if not text.startswith(CARGO_CONFIG_MARK):
        raise SetupError(
            f"{CARGO_CONFIG} was not written by setup and stays as it is: move what it says to "
            "~/.cargo/config.toml and delete it"
        )
    return dict(re.findall(r'^(\w+) = "(.*)"$', text, re.MULTILINE))


def write_cargo_config(libtorch: Path, onnxruntime: Path) -> None:
    text = (
        f"{CARGO_CONFIG_MARK} for this machine. A variable that is set in the environment wins over these.\n"
        "[env]\n"
        f'LIBTORCH = "{libtorch}"\n'
        f'ORT_DYLIB_PATH = "{onnxruntime}"\n'
    )
    if CARGO_CONFIG.exists() and CARGO_CONFIG.read_text(encoding="utf-8") == text:
        return
    CARGO_CONFIG.parent.mkdir(exist_ok=True)
    CARGO_CONFIG.write_text(text, encoding="utf-8")
    print(f"wrote {CARGO_CONFIG.relative_to(ROOT)}")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One setup at a time works on the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("another setup is running; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def setup(wish: Bundle | None) -> str:
    """Does everything; returns the line that says what is ready."""
    rust = check_tools()
    with alone():
        configured = read_cargo_config()
        libtorch = choose_libtorch(wish, configured.get("LIBTORCH"))
        onnxruntime = choose_onnxruntime(configured.get("ORT_DYLIB_PATH"))
        write_cargo_config(libtorch, onnxruntime)
    return f"setup: ready (Rust {rust}, libtorch in {libtorch}, ONNX Runtime {onnxruntime.name})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--gpu", dest="wish", action="store_const", const=CUDA, help="libtorch with CUDA (2.5 GB)"
    )
    kind.add_argument(
        "--cpu", dest="wish", action="store_const", const=CPU, help="back to the CPU's libtorch"
    )
    try:
        print(setup(parser.parse_args().wish))
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; run it again to go on where it stopped")


if __name__ == "__main__":
    main()
