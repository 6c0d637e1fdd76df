# SPDX-License-Identifier: MIT
"""The steps of tools/gpu_check."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gpu_programs import (
    ROOT,
    SANITIZED,
    SANITIZERS,
    SKIPPED,
    Failed,
    NoDevice,
    Result,
    gpu_tests,
    json_lines,
    run,
    run_test,
    sanitizer_verdict,
    worst_of,
    wrong_gradient,
)

PROGRAMS = {  # target: the program, in the build folder
    "brenier_command": "tools/brenier",
    "brenier_bench_device": "bench/brenier_bench_device",
    "brenier_bench_inner": "bench/brenier_bench_inner",
    "brenier_bench_sinkhorn": "bench/brenier_bench_sinkhorn",
}
TARGETS = (*PROGRAMS, "brenier_gpu_tests")
# Name, functional, dimension, particles: the cases of the CPU's tables, and large clouds.
CASES = (
    ("d=1, exact log-det", "porous_medium", 1, 1000),
    ("d=1, no log-det", "potential", 1, 1000),
    ("d=1, interaction", "aggregation", 1, 1000),
    ("d=20, exact log-det", "entropy", 20, 1000),
    ("d=2, large", "entropy", 2, 1_000_000),
    ("d=2, large, no log-det", "potential", 2, 1_000_000),
)
PEER_CASES = ("porous_medium:1:1000", "entropy:20:1000", "potential:1:1000")
LARGE_CASE, LARGE_FORMS = "entropy:2:1000000", "eager,eager_analytic_graph,compile_func,compile_analytic"
ROUNDS = 3
RUN_SECONDS = 25  # most of one run of brenier_bench_inner: one that hangs does not take the others' time
SINKHORN_BAR = 1e-4  # the value in float after the same steps, against double


class Check:
    """The steps. Each takes the seconds that it may use, and returns what it found or raises Failed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out.resolve()
        self.build_folder: Path = options.build.resolve()
        self.machine: dict = {}
        self.no_device = False
        self.partial: dict = {}  # what the step that runs has found so far
        self.save: Callable[[], None] = lambda: None

    def note(self, data: dict) -> None:
        """Keeps what a step has found so far, also where it does not end."""
        self.partial = data
        self.save()

    def log(self, name: str) -> Path:
        return self.out / f"{name}.log"

    def binary(self, inside: str) -> Path:
        return self.build_folder / inside

    def must(self, command: list, limit: float, log: str, env: dict | None = None) -> Result:
        """Runs a command that has to succeed."""
        result = run(command, limit, self.log(log), env)
        if result.status is None:
            raise TimeoutError
        if result.status == SKIPPED:
            raise self.skipped(f"{Path(str(command[0])).name}: {result.last()}")
        if result.status != 0:
            raise Failed(f"{Path(str(command[0])).name} ended with {result.status}: {result.last()}")
        return result

    def skipped(self, reason: str, data: dict | None = None) -> Failed:
        """A program of ours has found no device: that is so, unless nvidia-smi has seen one."""
        if "gpu" in self.machine:
            return Failed(f"nvidia-smi sees a GPU, but {reason}", data)
        return NoDevice(reason, data)

    def step_machine(self, limit: float) -> dict:
        """What and when this is. The rest goes on in any case, to where it needs a GPU."""
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        version = re.search(r"release [\d.]+, V[\d.]+", run([nvcc, "--version"], limit / 4).text)
        commit = run(["git", "-C", ROOT, "rev-parse", "HEAD"], limit / 4)
        self.machine |= {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": self.options.commit or (commit.text.strip() if commit.status == 0 else "unknown"),
            "built": "",
            "nvcc": version[0] if version else "none",
            "processors": os.cpu_count(),
        }
        built = self.build_folder / "gpu_check_commit"
        if built.is_file():
            self.machine["built"] = built.read_text().strip()
        keys = ("name", "driver_version", "compute_cap", "memory.total", "clocks.max.sm", "power.limit")
        query = run(["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"], limit / 4)
        if query.status == 0 and query.text.count(",") >= len(keys) - 1:
            values = [value.strip() for value in query.text.splitlines()[0].split(",")]
            self.machine["gpu"] = dict(zip(keys, values))
            return self.machine
        listed = run(["nvidia-smi", "-L"], limit / 4)  # an older one does not know all of the keys
        if found := re.search(r"^GPU \d+: ([^(\n]+)", listed.text, re.MULTILINE):
            self.machine["gpu"] = {"name": found[1].strip()}
            return self.machine
        if re.search(r"no devices were found", query.text + listed.text, re.IGNORECASE):
            raise NoDevice(f"nvidia-smi: {query.last()}", self.machine)
        raise Failed(f"nvidia-smi: {query.last()}", self.machine)

    def step_build(self, limit: float) -> dict:
        """Everything that later steps run, for this GPU's architecture alone; Hopper where there is none."""
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        architecture = self.machine.get("gpu", {}).get("compute_cap", "9.0").replace(".", "")
        end = time.monotonic() + limit
        command = [
            "cmake",
            "-S",
            ROOT,
            "-B",
            self.build_folder,
            *(["-G", "Ninja"] if shutil.which("ninja") else []),
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBRENIER_CUDA=ON",
            f"-DCMAKE_CUDA_ARCHITECTURES={architecture}",
            f"-DCMAKE_CUDA_COMPILER={nvcc}",
            f"-DPython3_EXECUTABLE={sys.executable}",
        ]
        if self.options.deps:
            command.append(f"-DCMAKE_PREFIX_PATH={self.options.deps.resolve()}")
        # What later steps find was linked now: nothing that a build before has left is taken for it.
        old = [self.binary(name) for name in PROGRAMS.values()]
        for program in [*old, *self.binary("tests/cuda").glob("*_cuda")]:
            program.unlink(missing_ok=True)
        (self.build_folder / "gpu_check_commit").unlink(missing_ok=True)
        configured = run(command, limit, self.log("build"))
        if configured.status is None:
            raise TimeoutError
        if configured.status != 0:
            raise Failed(f"cmake ended with {configured.status}: {configured.first_error()}")
        cache = self.build_folder / "CMakeCache.txt"
        ninja = cache.is_file() and re.search(r"CMAKE_GENERATOR:\w+=Ninja", cache.read_text())
        jobs = self.options.jobs or os.cpu_count() or 1
        going_on = ["-k", "0"] if ninja else ["-k"]  # one source that does not compile costs what needs it
        command = ["cmake", "--build", self.build_folder, "--target", *TARGETS, "-j", jobs, "--", *going_on]
        (self.build_folder / "gpu_check_commit").write_text(str(self.machine.get("commit", "")))
        self.machine["built"] = self.machine.get("commit", "")
        built = run(command, end - time.monotonic(), self.log("build"))
        missing = [target for target, name in PROGRAMS.items() if not self.binary(name).is_file()]
        data = {"architecture": architecture, "jobs": jobs, "not built": missing}
        if built.status is None:
            self.note(data)
            raise TimeoutError
        if built.status != 0:
            raise Failed(f"the build ended with {built.status}: {built.first_error()}", data)
        return data

    def step_tests(self, limit: float) -> dict:
        """The tests of label gpu, each by itself: the bodies that the emulator runs everywhere else."""
        end = time.monotonic() + limit
        tests = gpu_tests(self.build_folder, limit / 4)
        if not tests:
            raise Failed("the build has no tests of label gpu")
        found = {test.name: {"status": "not run", "seconds": 0.0, "reason": ""} for test in tests}
        first, trouble = None, ""
        for number, test in enumerate(tests):
            left = end - time.monotonic()
            if left < 1:
                break
            # One that hangs takes its share twice, not what the others need.
            share = min(left, 2 * left / (len(tests) - number))
            found[test.name], result = run_test(test, share, self.log("tests"))
            if found[test.name]["status"] == "failed" and not first:
                first = test
            if found[test.name]["status"] == "skipped":
                trouble = result.last()
            self.note({"tests": found})
        if first and end - time.monotonic() > 1:
            # Once more, waiting for every kernel: the message then names the one that fails.
            verdict, _ = run_test(
                first, end - time.monotonic(), self.log("tests"), {"BRENIER_SYNC_LAUNCHES": "1"}
            )
            found[f"{first.name}, BRENIER_SYNC_LAUNCHES=1"] = verdict
            self.note({"tests": found})
        for test in tests:  # slow rather than hanging? Where the others have left much more time than it had
            left = end - time.monotonic()
            if found[test.name]["status"] == "out of time" and left > 1.5 * found[test.name]["seconds"]:
                found[test.name], _ = run_test(test, left, self.log("tests"))
                self.note({"tests": found})
        wrong = [name for name in (test.name for test in tests) if found[name]["status"] != "passed"]
        skipped = [name for name in wrong if found[name]["status"] == "skipped"]
        if skipped and len(skipped) == sum(found[test.name]["status"] != "not built" for test in tests):
            raise self.skipped(f"all tests were skipped: {trouble}", {"tests": found})
        if wrong:
            worst = first.name if first else wrong[0]
            reason = f"{worst}: {found[worst]['status']} {found[worst]['reason']}".strip()
            raise Failed(f"{len(wrong)} of {len(tests)} did not pass; {reason}", {"tests": found})
        return {"tests": found}

    def step_sanitizers(self, limit: float) -> dict:
        """compute-sanitizer's four tools on small tests; all of them, whatever the first ones find."""
        tool_path = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        runs = [(tool, *test) for tool in SANITIZERS for test in SANITIZED]
        end, found = time.monotonic() + limit, {}
        for number, (tool, test, without, environment) in enumerate(runs):
            program = self.binary(f"tests/cuda/{test}")
            if not program.is_file():
                found[f"{tool} {test}"] = "not built"
                continue
            command = [tool_path, "--tool", tool, "--error-exitcode", 66, "--print-limit", 20, program]
            command += [f"-tce={without}"] if without else []
            share = (end - time.monotonic()) / (len(runs) - number)
            result = run(command, share, self.log("sanitizers"), environment)
            found[f"{tool} {test}"] = sanitizer_verdict(result)
            self.note({"sanitizers": found})
            if result.status == SKIPPED:
                raise self.skipped(result.last(), {"sanitizers": found})
        wrong = [f"{name}: {verdict}" for name, verdict in found.items() if verdict != "clean"]
        if wrong:
            raise Failed(f"{len(wrong)} of {len(found)}; {wrong[0]}", {"sanitizers": found})
        return {"sanitizers": found}

    def step_ceilings(self, limit: float) -> dict:
        """What the GPU can do at best."""
        result = self.must([self.binary("bench/brenier_bench_device")], limit, "bench")
        return {"ceilings": json_lines(result.text)[-1]}

    def step_inner(self, limit: float) -> dict:
        """An inner iteration on the GPU and on this machine's CPU, in turn; medians over the rounds."""
        end, program = time.monotonic() + limit, self.binary("bench/brenier_bench_inner")
        rounds: dict[tuple[str, str], list[dict]] = {}
        reasons: list[str] = []
        for _ in range(ROUNDS):
            for name, functional, dim, n in CASES:
                for device in ("cuda", "cpu"):
                    result = run(
                        [
                            program,
                            "--functional",
                            functional,
                            "--dim",
                            dim,
                            "--n",
                            n,
                            "--device",
                            device,
                            "--threads",
                            0,
                            "--seconds",
                            0.6 if device == "cuda" else 0.2,
                        ],
                        min(end - time.monotonic(), RUN_SECONDS),
                        self.log("bench"),
                    )
                    lines = json_lines(result.text)
                    if result.status == 0 and lines:
                        rounds.setdefault((name, device), []).append(lines[-1])
                    else:
                        ended = "out of time" if result.status is None else result.last()
                        reasons.append(f"{name} on {device}: {ended}")
                    self.note({"inner": self.inner_rows(rounds)})
        rows = self.inner_rows(rounds)
        reasons += [
            f"{row['case']} on {row['device']}: {wrong}" for row in rows if (wrong := wrong_gradient(row))
        ]
        if reasons:
            raise Failed(f"{len(reasons)} runs failed; {reasons[0]}", {"inner": rows})
        return {"inner": rows}

    @staticmethod
    def inner_rows(rounds: dict[tuple[str, str], list[dict]]) -> list[dict]:
        """One row for each case and device: medians of its rounds, and the worst gradient."""
        rows = []
        for (name, device), lines in rounds.items():
            rows.append(
                lines[0]
                | {
                    "case": name,
                    "device": device,
                    "rounds": [x["seconds_median"] for x in lines],
                    "seconds_median": statistics.median(x["seconds_median"] for x in lines),
                    "gflops": statistics.median(x["gflops"] for x in lines),
                    "share": statistics.median(x["share"] for x in lines),
                    "gradient_rel_error": worst_of([x["gradient_rel_error"] for x in lines]),
                }
            )
        return rows

    def step_sinkhorn(self, limit: float) -> dict:
        """Entropic transport with its forces, from nothing."""
        program = self.binary("bench/brenier_bench_sinkhorn")
        command = [program, "--device", "cuda", "--threads", 0]
        command += ["--n", 1000, "--dim", 128, "--iterations", 100]
        row = json_lines(self.must(command, limit, "bench").text)[-1]
        error = row.get("error")
        if not isinstance(error, (int, float)) or not error <= SINKHORN_BAR:
            raise Failed(f"value error {error}; the bar is {SINKHORN_BAR:g}", {"sinkhorn": [row]})
        return {"sinkhorn": [row]}

    def step_judge(self, limit: float) -> dict:
        """The porous medium experiment on the GPU, against closed forms."""
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "judge.json"
            result = run(
                [
                    sys.executable,
                    ROOT / "bench/paper/judge.py",
                    "--only",
                    "porous_medium",
                    "--seeds",
                    3,
                    "--device",
                    "cuda",
                    "--binary",
                    self.binary("tools/brenier"),
                    "--json",
                    table,
                ],
                limit,
                self.log("bench"),
            )
            data = {"judge": json.loads(table.read_text())["rows"]} if table.is_file() else {}
        if result.status is None:
            raise TimeoutError
        if result.status != 0:
            raise Failed(f"judge.py ended with {result.status}: {result.last()}", data)
        return data

    def step_peers(self, limit: float) -> dict:
        """PyTorch on the same GPU and the same numbers, interleaved with the engine."""
        end, found, reasons = time.monotonic() + limit, {}, []
        common = ["--device", "cuda", "--share-inputs", "--binary", self.binary("bench/brenier_bench_inner")]
        large = ["--case", LARGE_CASE, "--rounds", 2, "--seconds", 0.5, "--forms", LARGE_FORMS]
        # Seven PyTorch processes compile at once: not with all processors each.
        environment = {"PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
        small = [word for case in PEER_CASES for word in ("--case", case)]
        for share, words in ((0.7, [*small, "--rounds", ROUNDS, "--seconds", 0.4]), (1, large)):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "peers.json"
                result = run(
                    [sys.executable, ROOT / "bench/peers/compare.py", *common, *words, "--json", file],
                    share * (end - time.monotonic()),
                    self.log("peers"),
                    environment,
                )
                found |= json.loads(file.read_text()) if file.is_file() else {}
            self.note({"peers": found})
            if result.status != 0:
                reasons.append("out of time" if result.status is None else result.last())
        reasons += [
            f"{case}, {line.get('form')}: {wrong}"
            for case, lines in found.items()
            for line in lines
            if "failed" not in line and (wrong := wrong_gradient(line))
        ]
        if reasons:
            raise Failed("; ".join(reasons), {"peers": found})
        return {"peers": found}
