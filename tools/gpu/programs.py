# SPDX-License-Identifier: MIT
"""The programs that are checked: from an archive of tools/gpu_pack, or from a build folder.

An archive unpacks to
    manifest.json   where the programs come from, the tests (name, program, arguments, environment, seconds, cases)
    bin/            the programs, stripped
    tools/, bench/  the scripts that run them, and what these read
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gpu.process import ROOT, Failed, Log, Result, run

PROGRAMS = {  # name: its CMake target, and where a build puts it
    "brenier": ("brenier_command", "tools/brenier"),
    "brenier_bench_device": ("brenier_bench_device", "bench/brenier_bench_device"),
    "brenier_bench_inner": ("brenier_bench_inner", "bench/brenier_bench_inner"),
    "brenier_bench_sinkhorn": ("brenier_bench_sinkhorn", "bench/brenier_bench_sinkhorn"),
    "brenier_bench_ops": ("brenier_bench_ops", "bench/brenier_bench_ops"),
}
TESTS = "brenier_gpu_tests"  # the target that builds every test of label gpu
TEST_FOLDER = "tests/cuda"

# What everything else stands on comes first, in this order: the ladder.
LADDER = (
    "test_dialect_cuda",
    "test_philox_cuda",
    "bench_device",
    "test_operations_cuda",
    "test_device_loop_cuda",
)

# Where a machine may keep the libraries that the programs do not bring.
LIBRARY_FOLDERS = (
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-*/lib64",
    "/usr/local/cuda*/targets/x86_64-linux/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib",
    "/usr/lib/python3*/site-packages/nvidia/*/lib",
    "/usr/local/lib/python3*/*-packages/nvidia/*/lib",
)

# What decides what the programs do, and with them the scripts: the stamp of an archive covers these.
SOURCES = ("CMakeLists.txt", "kernels", "autodiff", "solvers", "engine", "tools", "bench", "tests")
PROGRAM_SUFFIXES = {".hpp", ".cpp", ".cu", ".cuh", ".h", ".c", ".in", ".cmake", ".txt"}
SCRIPT_SUFFIXES = {".py", ".toml", ""}


def source_digest(root: Path, scripts: bool = False) -> str:
    """A digest of what a tree's programs are made of: the same content has the same, whatever the commit."""
    total, suffixes = hashlib.sha256(), PROGRAM_SUFFIXES | (SCRIPT_SUFFIXES if scripts else set())
    for top in SOURCES:
        below = root / top
        for path in sorted(below.rglob("*")) if below.is_dir() else [below]:
            if path.suffix in suffixes and path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                total.update(f"{path.relative_to(root)} {content}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


@dataclass
class GpuTest:
    """A test of label gpu, as ctest would run it. `cases`: of doctest, in the order in which they run."""

    name: str
    program: str
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 300
    labels: list[str] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)

    def as_json(self) -> dict:
        return asdict(self)


def in_order(tests: list[GpuTest]) -> list[GpuTest]:
    """The ladder first."""
    return sorted(tests, key=lambda test: LADDER.index(test.name) if test.name in LADDER else len(LADDER))


def listed_tests(build: Path, limit: float) -> list[GpuTest]:
    """The tests of label gpu of a configured build, by ctest."""
    result = run(["ctest", "--test-dir", build, "-L", "^gpu$", "--show-only=json-v1"], limit)
    start = result.text.find("{")
    if result.status != 0 or start < 0:
        raise Failed(f"ctest has no list of tests: {result.last()}")
    listed, _ = json.JSONDecoder().raw_decode(result.text[start:])
    tests = []
    for entry in listed["tests"]:
        properties = {item["name"]: item["value"] for item in entry.get("properties", [])}
        command = entry.get("command") or [entry["name"]]
        environment = dict(word.split("=", 1) for word in properties.get("ENVIRONMENT", []))
        tests.append(
            GpuTest(
                entry["name"],
                Path(command[0]).name,
                command[1:],
                environment,
                float(properties.get("TIMEOUT", 300)),
                properties.get("LABELS", []),
            )
        )
    return in_order(tests)


# --- what a program needs to start -------------------------------------------------------------------------------


def trace(program: Path, env: dict | None = None) -> Result:
    """What ldd prints, without ldd: the loader lists the libraries and does not begin the program."""
    return run([program], 20, env={"LD_TRACE_LOADED_OBJECTS": "1"} | (env or {}))


def start_trouble(traced: Result) -> str:
    """Why a program does not start here; empty where it does."""
    wrong = re.findall(
        r"^.*(?:not found|error while loading|cannot open shared).*$", traced.text, re.MULTILINE
    )
    if wrong:
        return "; ".join(" ".join(line.split()) for line in wrong[:3])
    return "" if traced.status == 0 else f"status {traced.status}: {traced.last()}"


def library_path(missing: list[str]) -> str:
    """LD_LIBRARY_PATH for libraries that the loader does not find, from the usual places and this Python's."""
    patterns = [
        *LIBRARY_FOLDERS,
        *(f"{entry}/nvidia/*/lib" for entry in sys.path if entry.endswith("-packages")),
    ]
    folders = [folder for pattern in patterns for folder in sorted(Path("/").glob(pattern.lstrip("/")))]
    found = {str(folder) for name in missing for folder in folders[::-1] if (folder / name).exists()}
    ordered = [str(folder) for folder in folders if str(folder) in found]
    given = os.environ.get("LD_LIBRARY_PATH")
    return ":".join(dict.fromkeys([*ordered, *([given] if given else [])]))


# --- programs of an archive, and of a build ----------------------------------------------------------------------


class Programs:
    """Programs by name. `trouble` says why one of them cannot be used."""

    def __init__(self, folder: Path, origin: dict, tests: list[GpuTest], places: dict[str, str]) -> None:
        self.folder, self.origin, self.tests, self.places = folder, origin, in_order(tests), places
        self.environment: dict[str, str] = {}
        self.trouble: dict[str, str] = {}
        self.build: Build | None = None

    @staticmethod
    def unpacked(folder: Path) -> Programs:
        """Of an archive's folder."""
        file = folder / "manifest.json"
        if not file.is_file():
            raise Failed(f"{folder} has no manifest.json; tools/gpu_pack makes such archives")
        manifest = json.loads(file.read_text())
        tests = [GpuTest(**test) for test in manifest.pop("tests")]
        return Programs(folder, manifest, tests, {name: f"bin/{name}" for name in manifest["programs"]})

    @staticmethod
    def built(folder: Path, limit: float) -> Programs:
        """Of a configured build; what is not built is known when it is asked for."""
        tests = listed_tests(folder, limit)
        places = {name: inside for name, (_, inside) in PROGRAMS.items()}
        places |= {
            test.program: f"{TEST_FOLDER}/{test.program}" for test in tests if test.program not in places
        }
        return Programs(folder, {}, tests, places)

    def check(self, compute_capability: str = "", log: Log | None = None) -> dict[str, str]:
        """Finds the libraries, and names what is not as it was packed or does not start: name -> why."""
        self.trouble = {}
        wanted = self.origin.get("architecture", "")
        for name, expected in self.origin.get("programs", {}).items():
            path = self.folder / self.places[name]
            if not path.is_file():
                self.trouble[name] = "not in the archive"
            elif file_digest(path) != expected["sha256"]:
                self.trouble[name] = "is not what was packed"
            elif compute_capability and wanted not in ("", compute_capability.replace(".", "")):
                self.trouble[name] = f"built for sm_{wanted}, the GPU is {compute_capability}"
        sound = [name for name in self.places if name not in self.trouble]
        traced = {name: trace(self.folder / self.places[name]) for name in sound}
        missing = {
            found
            for result in traced.values()
            for found in re.findall(r"^\s*(\S+) => not found", result.text, re.MULTILINE)
        }
        if missing and (folders := library_path(sorted(missing))):
            self.environment = {"LD_LIBRARY_PATH": folders}
            traced = {name: trace(self.folder / self.places[name], self.environment) for name in sound}
        self.trouble |= {name: why for name, result in traced.items() if (why := start_trouble(result))}
        for name, result in traced.items():
            if log and (name in self.trouble or name == sound[0]):
                log.add(f"the libraries of {name}", result.text, f"status {result.status}")
        return self.trouble

    def path(self, name: str, until: float = 0) -> Path:
        """Where a program is; Failed with the reason where there is none. Waits until then for one that is built."""
        own = self.folder / self.places.get(name, name)
        if name not in self.trouble and own.is_file():
            return own
        if self.build:
            return self.build.wait(name, until)
        raise Failed(f"{name}: {self.trouble.get(name, 'not built')}")


# --- building on the machine itself ------------------------------------------------------------------------------


class Build:
    """Builds programs for this machine's GPU, beside what else runs."""

    def __init__(self, source: Path, folder: Path, log: Log, deps: Path | None = None, jobs: int = 0) -> None:
        self.source, self.folder, self.log, self.deps = source, folder, log, deps
        self.jobs = jobs or os.cpu_count() or 1
        self.status, self.reason = "not begun", ""
        self.thread: threading.Thread | None = None

    @staticmethod
    def nvcc() -> str:
        return shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"

    def place(self, name: str) -> Path:
        return self.folder / (PROGRAMS[name][1] if name in PROGRAMS else f"{TEST_FOLDER}/{name}")

    def run(self, names: list[str], architecture: str, limit: float) -> None:
        """Configures and builds, and sets `status` and `reason`. Of one source that does not compile, only
        what needs it is missing; and nothing that an earlier build has left is taken for it."""
        end = time.monotonic() + limit
        self.status = "running"
        for name in names:
            self.place(name).unlink(missing_ok=True)
        configure = ["cmake", "-S", self.source, "-B", self.folder]
        configure += ["-G", "Ninja"] if shutil.which("ninja") else []
        configure += ["-DCMAKE_BUILD_TYPE=Release", "-DBRENIER_CUDA=ON", "-DBRENIER_MPI=OFF"]
        configure += [f"-DCMAKE_CUDA_ARCHITECTURES={architecture}", f"-DCMAKE_CUDA_COMPILER={self.nvcc()}"]
        configure += [f"-DPython3_EXECUTABLE={sys.executable}"]
        configure += [f"-DCMAKE_PREFIX_PATH={self.deps.resolve()}"] if self.deps else []
        configured = run(configure, limit, self.log)
        if configured.status != 0:
            self.status = "out of time" if configured.status is None else "failed"
            self.reason = f"cmake ended with {configured.status}: {configured.first_error()}"
            return
        cache = self.folder / "CMakeCache.txt"
        ninja = cache.is_file() and re.search(r"CMAKE_GENERATOR:\w+=Ninja", cache.read_text())
        targets = [PROGRAMS[name][0] if name in PROGRAMS else name for name in names]
        command = ["cmake", "--build", self.folder, "--target", *targets, "-j", self.jobs]
        command += ["--", *(["-k", "0"] if ninja else ["-k"])]
        built = run(command, end - time.monotonic(), self.log)
        if built.status != 0:
            self.status = "out of time" if built.status is None else "failed"
            self.reason = f"the build ended with {built.status}: {built.first_error()}"
            return
        self.status = "passed"

    def begin(self, names: list[str], architecture: str, limit: float) -> None:
        """The same in a thread."""

        def body() -> None:
            try:
                self.run(names, architecture, limit)
            except OSError as error:  # a full disk, say: what waits for a program must not wait for ever
                self.status, self.reason = "failed", str(error)

        self.status = "running"
        self.thread = threading.Thread(target=body, daemon=True)
        self.thread.start()

    def wait(self, name: str, until: float) -> Path:
        """A program once it is linked: the linker makes it executable last."""
        path = self.place(name)
        while True:
            over = self.status != "running"
            if path.is_file() and os.access(path, os.X_OK) and (over or not start_trouble(trace(path))):
                return path
            if over:
                raise Failed(f"{name}: not built, {self.reason or self.status}")
            if time.monotonic() >= until:
                raise Failed(f"{name}: not built yet")
            time.sleep(0.2)


def unpack(archive: Path, folder: Path) -> None:
    """An archive of tools/gpu_pack into a folder."""
    try:
        with tarfile.open(archive, "r:*") as content:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            content.extractall(folder, **safe)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Failed(f"{archive} cannot be unpacked: {error}") from error


def source_root() -> Path | None:
    """The tree that a fallback builds; None where the scripts have been unpacked alone."""
    return ROOT if (ROOT / "kernels").is_dir() else None
