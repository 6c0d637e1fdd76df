# SPDX-License-Identifier: MIT
"""How tools/gpu_check runs other programs, and reads what they print."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = 77  # exit status of our programs where there is no device


class Failed(Exception):
    """A step did not do what it should; the message says why. `data` is what it found nevertheless."""

    def __init__(self, reason: str, data: dict | None = None) -> None:
        super().__init__(reason)
        self.data = data or {}


class NoDevice(Failed):
    """nvidia-smi or one of our programs says that there is no GPU."""


@dataclass
class Result:
    """A finished command: its exit status, None where it was stopped, and what it printed."""

    status: int | None
    text: str

    def last(self) -> str:
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "no message"

    def first_error(self) -> str:
        """The first line in which a compiler, a linker or CMake names an error; the last line otherwise."""
        for line in self.text.splitlines():
            if ERROR.search(line):
                return line.strip()[:300]
        return self.last()


ERROR = re.compile(
    r"\berror\b(?: *#?[-\w]+)? *:|CMake Error|undefined reference|No space left|Killed", re.IGNORECASE
)


def run(command: list, limit: float, log: Path | None = None, env: dict | None = None) -> Result:
    """Runs a command in a process group of its own, for at most `limit` seconds; both streams."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as file:
        try:
            process = subprocess.Popen(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=os.environ | (env or {}),
                start_new_session=True,
            )
        except OSError as error:
            return Result(127, f"{words[0]}: {error.strerror}")
        try:
            status: int | None = process.wait(max(limit, 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children, compilers among them, as well
            process.wait()
            status = None
        file.seek(0)
        text = file.read().decode(errors="replace")
    if log:
        with log.open("a") as out:
            ended = "stopped: out of time" if status is None else f"status {status}"
            setting = "".join(f"{key}={value} " for key, value in (env or {}).items())
            out.write(f"$ {setting}{' '.join(words)}\n{text}\n[{ended}]\n\n")
    return Result(status, text)


def json_lines(text: str) -> list[dict]:
    """The lines of a benchmark's output that are JSON objects."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


# --- tests -----------------------------------------------------------------------------------------------

# What everything else stands on comes first: where time runs out, it is known whether that works.
FIRST = (
    "test_dialect_cuda",
    "test_philox_cuda",
    "bench_device",
    "test_operations_cuda",
    "test_device_loop_cuda",
)


@dataclass
class GpuTest:
    """A test of label gpu: what ctest would run."""

    name: str
    command: list[str]

    def built(self) -> bool:
        return bool(self.command) and Path(self.command[0]).is_file()


def gpu_tests(build: Path, limit: float) -> list[GpuTest]:
    """The tests of label gpu of a configured build."""
    result = run(["ctest", "--test-dir", build, "-L", "gpu", "--show-only=json-v1"], limit)
    start = result.text.find("{")
    if result.status != 0 or start < 0:
        raise Failed(f"ctest has no list of tests: {result.last()}")
    listed, _ = json.JSONDecoder().raw_decode(result.text[start:])
    tests = [GpuTest(test["name"], test.get("command", [])) for test in listed["tests"]]
    return sorted(tests, key=lambda test: FIRST.index(test.name) if test.name in FIRST else len(FIRST))


def doctest_cases(text: str) -> tuple[list[str], list[str]]:
    """The cases that have ended, and those of them that failed, from doctest's output with --duration."""
    ended, wrong = [], []
    for block in re.split(r"^={40,}$", text, flags=re.MULTILINE):
        if name := re.search(r"^TEST CASE: +(.*)", block, re.MULTILINE):
            ended.append(name[1].strip())
            if re.search(r"\bERROR: ", block):
                wrong.append(ended[-1])
    return ended, wrong


def test_verdict(result: Result) -> tuple[str, str]:
    """Status (passed, failed, skipped, out of time) and the reason."""
    ended, wrong = doctest_cases(result.text)
    if result.status is None:
        return "out of time", f"last case that ended: {ended[-1]}" if ended else "no case ended"
    if result.status == 0:
        return "passed", ""
    if result.status == SKIPPED:
        return "skipped", result.last()
    if wrong:
        return "failed", f"{len(wrong)} cases: {wrong[0]}"
    after = f", after {ended[-1]}" if ended else ""
    return "failed", f"status {result.status}{after}: {result.last()}"


def run_test(test: GpuTest, limit: float, log: Path, env: dict | None = None) -> tuple[dict, Result]:
    """One test by itself; what it printed before it was stopped is not lost."""
    if not test.built():
        return {"status": "not built", "seconds": 0.0, "reason": ""}, Result(127, "")
    command = list(test.command)
    if Path(command[0]).name.startswith("test_"):
        command.append("--duration=true")
    if shutil.which("stdbuf"):
        command = ["stdbuf", "-oL", *command]
    start = time.monotonic()
    result = run(command, limit, log, env)
    status, reason = test_verdict(result)
    return {"status": status, "seconds": time.monotonic() - start, "reason": reason}, result


# --- compute-sanitizer -------------------------------------------------------------------------------------

SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Small tests, what is left out of them (bulk, products of cuBLAS, whose kernels are many, and errors made on
# purpose), and their environment.
SANITIZED = (
    ("test_operations_cuda", "bulk*", {}),
    ("test_device_loop_cuda", "", {"BRENIER_TEST_WITHOUT": "cublas"}),
    ("test_dialect_cuda", "gemm*,*graph replays*,launches that no device*", {}),
)


def sanitizer_verdict(result: Result) -> str:
    """'clean', or what is wrong. Only a summary of no errors after a test that passed is clean."""
    if result.status is None:
        return "out of time"
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", result.text)
    zero = summary and re.search(r"SUMMARY: 0 (?:errors|hazards)", summary[-1])
    passed = re.search(r"\[doctest\] Status: SUCCESS!", result.text)
    if result.status == 0 and zero and passed:
        return "clean"
    return summary[-1] if summary and not zero else f"status {result.status}: {result.last()}"


# --- numbers ------------------------------------------------------------------------------------------------

GRADIENT_BAR = 1e-4  # a gradient in float, against the reference in double


def wrong_gradient(line: dict) -> str:
    """Why the gradient of a benchmark's line is not right; empty where it is. NaN is null in JSON."""
    error = line.get("gradient_rel_error")
    if isinstance(error, (int, float)) and error <= GRADIENT_BAR:
        return ""
    return f"gradient error {error}; the bar is {GRADIENT_BAR:g}"


def worst_of(errors: list) -> float | None:
    """The largest; None where one is not a number."""
    return max(errors) if all(isinstance(x, (int, float)) and x == x for x in errors) else None
