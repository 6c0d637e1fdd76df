#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Packs a build with tools/gpu_pack and runs both calls of tools/gpu_check on the archive, as on a bare machine.

    check_gpu_pack.py BUILD

The archive is unpacked into an empty folder, PATH is /usr/bin, and there is neither the source nor a compiler in use.
Without a GPU every test must be seen to be skipped, and the exit status is 2.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BARE = {"PATH": "/usr/bin", "PYTHONDONTWRITEBYTECODE": "1"}
BUILDING = {"nvcc", "cmake", "ctest", "ninja", "make", "g++", "c++", "gcc", "cc"}


def pack(archive: Path, build: Path) -> str:
    command = [sys.executable, ROOT / "tools/gpu_pack", archive, "--build", build, "--preset", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def check(folder: Path, out: Path, *words: str) -> tuple[int, list[dict], str]:
    """Exit status, records and log of one run of the unpacked script."""
    script = [str(folder / "tools/gpu_check"), str(out), "--packed", str(folder), *words]
    result = subprocess.run(script, capture_output=True, text=True, env=BARE, cwd=folder, timeout=400)
    files = sorted(path.name for path in out.iterdir())
    assert len(files) <= 8 and {"gpu_check.jsonl", "gpu_check.log", "gpu_check.md"} <= set(files), files
    records = [json.loads(line) for line in (out / "gpu_check.jsonl").read_text().splitlines()]
    print(result.stdout)
    return result.returncode, records, (out / "gpu_check.log").read_text()


def has_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


def main() -> None:
    if has_gpu():
        print("SKIPPED: there is a GPU; what is checked here is that its absence is seen")
        sys.exit(77)
    build = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as work:
        archive, folder = Path(work) / "gpu.tar.xz", Path(work) / "empty"
        said = pack(archive, build)
        print(said)
        assert "MB" in said and "nothing has changed" in pack(archive, build)
        with tarfile.open(archive) as content:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            content.extractall(folder, **safe)
        assert not (folder / "kernels").exists() and not list(folder.rglob("CMakeLists.txt"))
        manifest = json.loads((folder / "manifest.json").read_text())
        tests = {test["name"]: test for test in manifest["tests"]}
        assert tests and all(
            test["cases"] for test in tests.values() if test["program"].startswith("test_")
        ), tests
        for number in ("1", "2"):
            out = Path(work) / f"out{number}"
            status, records, log = check(folder, out, "--call", number)
            assert status == 2, status
            found = {x["name"]: x for x in records if x["kind"] == "test"}
            assert found.keys() == tests.keys(), found.keys() ^ tests.keys()
            for name, test in found.items():
                assert (
                    test["status"] == "no device"
                    and "SKIPPED: no CUDA device" in test["reason"]
                    or (name == "bench_device" and test["status"] == "no device")
                ), test
            steps = {x["name"]: x["status"] for x in records if x["kind"] == "step"}
            assert steps and set(steps.values()) <= {"failed", "no device"}, steps
            used = {
                Path(word).name for line in log.splitlines() if line.startswith("$ ") for word in line.split()
            }
            assert not used & BUILDING, used & BUILDING
        # A program that is not what was packed is named, and the others are tried all the same.
        name = next(iter(tests))
        (folder / "bin" / tests[name]["program"]).write_bytes(b"not a program")
        _, records, _ = check(folder, Path(work) / "out3", "--only", "ladder", "--only", "rest")
        troubles = {x["name"]: x["trouble"] for x in records if x["kind"] == "program"}
        assert troubles == {tests[name]["program"]: "is not what was packed"}, troubles
        statuses = {x["name"]: x["status"] for x in records if x["kind"] == "test"}
        assert statuses.pop(name) == "not there" and set(statuses.values()) <= {"no device"}, statuses
    print(f"{len(tests)} tests packed, unpacked and skipped: no device")


if __name__ == "__main__":
    main()
