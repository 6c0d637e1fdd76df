# SPDX-License-Identifier: MIT
"""The steps of tools/gpu_check. Each takes the seconds that it may use, and raises where it did not do all of its work;
what it found until then has been recorded."""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import gzip
import importlib.util
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu.process import ROOT, SKIPPED, Failed, Log, NoDevice, Result, run, running
from gpu.programs import LADDER, PROGRAMS, Build, GpuTest, Programs, source_digest, source_root, unpack
from gpu.rows import BENCHES, EAGER, GRADIENT_BAR, POROUS, STRONGEST, Bench, is_number, json_lines, wrong_by
from gpu.verdicts import case_at_fault, case_filter, profile_metrics, sanitizer_verdict, test_verdict

RUN_SECONDS = 25  # most of one run of a benchmark: one that hangs does not take the others' time
MOST_OF_A_FILE = 15 << 20  # bytes: what is larger does not come back from a machine that is lent
LANES = 6  # tests and sanitizers side by side

# Small tests for compute-sanitizer, what is left out of them (bulk, products of cuBLAS, whose kernels are many, and
# errors made on purpose), and their environment. The first two tools run in the first call, the others in the second.
SANITIZED = (
    ("test_operations_cuda", "bulk*", {}),
    ("test_device_loop_cuda", "", {"BRENIER_TEST_WITHOUT": "cublas"}),
    ("test_dialect_cuda", "gemm*,*graph replays*,launches that no device*", {}),
)
FIRST_SANITIZERS = (("memcheck", 0), ("racecheck", 0))  # (tool, index above)
OTHER_SANITIZERS = (("initcheck", 0), ("synccheck", 0)) + tuple(
    (tool, test) for test in (1, 2) for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
)

INNER = ("--device", "cuda", "--threads", "0", "--check", "10", "--seconds", "0.05")
PROFILES = (  # name, kernel, launches before it, program, arguments
    ("step_small", "step_kernel", 20, "brenier_bench_inner", ("--dim", "1", "--n", "1000", *INNER)),
    ("update_small", "update_kernel", 20, "brenier_bench_inner", ("--dim", "1", "--n", "1000", *INNER)),
    (
        "soft_minimum",
        "soft_minimum_kernel",
        20,
        "brenier_bench_sinkhorn",
        ("--device", "cuda", "--iterations", "100"),
    ),
    (
        "step_large",
        "step_kernel",
        3,
        "brenier_bench_inner",
        ("--functional", "potential", "--dim", "2", "--n", "1000000", *INNER),
    ),
)
PEER_CASES = ("porous_medium:1:1000", "entropy:20:1000", "potential:1:1000")
LARGE_CASE, LARGE_FORMS = "entropy:2:1000000", "eager,eager_analytic_graph,compile_func,compile_analytic"


class Records:
    """What is known, a JSON line each, written as it comes: a machine that is taken away leaves it."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock, self.all, self.start = path, threading.Lock(), [], time.monotonic()
        path.write_text("")

    def add(self, kind: str, **content: object) -> None:
        record = {"kind": kind, **content, "at": round(time.monotonic() - self.start, 2)}
        with self.lock:
            self.all.append(record)
            with self.path.open("a") as out:
                out.write(json.dumps(record, default=str) + "\n")
                out.flush()
                os.fsync(out.fileno())

    @staticmethod
    def read(path: Path) -> list[dict]:
        """Those of a file. The last line of a run that was cut off need not be whole."""
        lines = path.read_text().splitlines()
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError:
            return [json.loads(line) for line in lines[:-1]]

    def last(self, kind: str, key: str) -> dict[str, dict]:
        """The last record of each value of `key`."""
        with self.lock:
            return {record[key]: record for record in self.all if record["kind"] == kind}


def python_with(*modules: str) -> str:
    """A Python that has them, ours first."""
    if all(importlib.util.find_spec(name) for name in modules):
        return sys.executable
    code = "import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in sys.argv[1:]))"
    for candidate in ("python3", "/usr/bin/python3", "/opt/torch/.venv/bin/python3"):
        if run([candidate, "-c", code, *modules], 20).status == 0:
            return candidate
    raise Failed(f"no Python here has {' and '.join(modules)}")


class Check:
    """The steps, and what they share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out.resolve()
        self.records = Records(self.out / "gpu_check.jsonl")
        self.log = Log(self.out / "gpu_check.log")
        self.machine: dict = {}
        self.no_device = False
        self.programs: Programs | None = None
        self.against: Programs | None = None
        self.work = Path(tempfile.mkdtemp(prefix="gpu_check-"))
        self.until = 0.0  # when the step that runs should end
        self.end = float("inf")  # when everything should
        self.run_already: set[str] = set()  # tests

    def close(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    # --- helpers ---

    def skipped(self, reason: str) -> Failed:
        """A program of ours has found no device: that is so, unless nvidia-smi has seen one."""
        if "gpu" in self.machine:
            return Failed(f"nvidia-smi sees a GPU, but {reason}")
        return NoDevice(reason)

    def left(self) -> float:
        return self.until - time.monotonic()

    def call(self, programs: Programs, name: str, words: Sequence, limit: float) -> Result:
        """One of our programs, that has to be there and has to find a device."""
        command = [programs.path(name, self.until), *words]
        result = run(command, min(limit, self.left()), self.log, programs.environment)
        if result.status == SKIPPED:
            raise self.skipped(f"{name}: {result.last()}")
        return result

    # --- machine and programs ---

    def step_machine(self, limit: float) -> None:
        """What and when this is, and whether the programs can run here. The rest goes on in any case, to where it
        needs a GPU."""
        self.until = time.monotonic() + limit
        nvcc = run([Build.nvcc(), "--version"], limit / 4)
        version = re.search(r"release [\d.]+, V[\d.]+", nvcc.text)
        here = (ROOT / ".git").exists()  # not a repository around the folder of an archive
        commit = run(["git" if here else "false", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], limit / 4)
        self.machine |= {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": self.options.commit or (commit.text.strip() if commit.status == 0 else ""),
            "nvcc": version[0] if version else "none",
            "processors": os.cpu_count(),
            "call": self.options.call or 0,
        }
        trouble = self.find_gpu(limit)
        try:
            self.find_programs(limit)
        finally:
            self.records.add("machine", **self.machine)
        if trouble:
            raise trouble

    def find_gpu(self, limit: float) -> Failed | None:
        keys = ("name", "driver_version", "compute_cap", "memory.total", "clocks.max.sm", "power.limit")
        tool = shutil.which("nvidia-smi") or "/usr/local/nvidia/bin/nvidia-smi"
        command = [tool, f"--query-gpu={','.join(keys)}", "--format=csv,noheader"]
        query = run(command, 0.7 * limit, self.log)  # the first use of a GPU wakes it, for seconds
        if query.status == 0 and query.text.count(",") >= len(keys) - 1:
            values = [value.strip() for value in query.text.splitlines()[0].split(",")]
            self.machine["gpu"] = dict(zip(keys, values))
            return None
        listed = run([tool, "-L"], 0.3 * limit)  # an older one does not know all of the keys
        if found := re.search(r"^GPU \d+: ([^(\n]+)", listed.text, re.MULTILINE):
            self.machine["gpu"] = {"name": found[1].strip()}
            return None
        if re.search(r"no devices were found", query.text + listed.text, re.IGNORECASE):
            return NoDevice(f"nvidia-smi: {query.last()}")
        return Failed(f"nvidia-smi: {query.last()}")

    def find_programs(self, limit: float) -> None:
        """Unpacks what was packed, and names what cannot run here; that is built beside the first tests."""
        if not self.options.packed:
            return  # step_build follows
        capability = self.machine.get("gpu", {}).get("compute_cap", "")
        self.programs = self.packed(self.options.packed, "programs")
        if self.options.against:
            self.against = self.packed(self.options.against, "against")
            for name, why in self.against.check(capability).items():
                self.records.add("program", name=name, build="B", trouble=why)
        origin = self.programs.origin
        self.machine |= {key: origin.get(key, "") for key in ("architecture", "stamp")}
        self.machine["built"] = origin.get("commit", "")
        here = source_root()
        if here and origin.get("sources") != source_digest(here):
            self.machine["other sources"] = (
                f"THE PROGRAMS WERE BUILT FROM OTHER SOURCES: {origin.get('commit')}"
            )
        trouble = self.programs.check(capability, self.log)
        for name, why in trouble.items():
            self.records.add("program", name=name, build="A", trouble=why)
        self.machine["libraries"] = self.programs.environment.get("LD_LIBRARY_PATH", "")
        if trouble:
            self.begin_fallback(sorted(trouble, key=self.rank), capability)

    def packed(self, source: Path, name: str) -> Programs:
        folder = source.resolve()
        if source.is_file():
            folder = self.work / name
            unpack(source, folder)
        return Programs.unpacked(folder)

    def rank(self, program: str) -> int:
        order = [test.program for test in self.programs.tests]
        return order.index(program) if program in order else len(order)

    def begin_fallback(self, names: list[str], capability: str) -> None:
        source = source_root()
        words = f"{len(names)} of {len(self.programs.places)} programs do not start here: {', '.join(names)}"
        if not source or not Path(Build.nvcc()).is_file() or not shutil.which("cmake"):
            why = "there is no source beside these scripts" if not source else "there is no nvcc or no CMake"
            raise Failed(f"{words} ({self.programs.trouble[names[0]]}); and they cannot be built: {why}")
        options = self.options
        packed = self.programs.folder / "deps"
        deps = options.deps or (packed if packed.is_dir() else None)
        self.programs.build = Build(source, options.build.resolve(), self.log, deps, options.jobs)
        architecture = capability.replace(".", "") or self.programs.origin.get("architecture") or "90"
        self.programs.build.begin(names, architecture, self.end - time.monotonic())
        self.records.add("fallback", programs=names)
        print(f"{words}; building them here, ", end="", flush=True)

    def step_build(self, limit: float) -> None:
        """Everything that later steps run, for this GPU's architecture alone; Hopper where there is none."""
        architecture = self.machine.get("gpu", {}).get("compute_cap", "9.0").replace(".", "")
        build = Build(ROOT, self.options.build.resolve(), self.log, self.options.deps, self.options.jobs)
        stale = build.folder / "tests/cuda"
        names = [*PROGRAMS, *(path.name for path in stale.glob("*_cuda"))]
        for name in names:  # nothing that a build before has left is taken for what is built now
            build.place(name).unlink(missing_ok=True)
        build.run([*PROGRAMS, "brenier_gpu_tests"], architecture, limit)
        self.programs = Programs.built(build.folder, 30)
        (build.folder / "gpu_check_commit").write_text(str(self.machine.get("commit", "")))
        if build.status == "out of time":
            raise TimeoutError
        if build.status != "passed":
            raise Failed(build.reason)

    def need_programs(self) -> Programs:
        if self.programs is None:
            if self.options.packed:
                raise Failed("there are no programs, see the step machine")
            self.programs = Programs.built(self.options.build.resolve(), 30)
            built = self.options.build / "gpu_check_commit"
            self.machine["built"] = built.read_text().strip() if built.is_file() else ""
            self.records.add("machine", **self.machine)
        return self.programs

    # --- tests ---

    def run_test(
        self,
        test: GpuTest,
        limit: float,
        env: dict | None = None,
        more: Sequence[str] = (),
        tool: Sequence = (),
        note: str = "",
    ) -> tuple[str, Result]:
        """One test by itself, recorded; what it printed before it was stopped is not lost."""
        programs, start = self.need_programs(), time.monotonic()
        name = f"{test.name}{note}"
        try:
            program = programs.path(test.program, time.monotonic() + limit)
        except Failed as error:
            self.records.add("test", name=name, status="not there", seconds=0.0, reason=str(error))
            return "not there", Result(127, "")
        command = [*tool, program, *test.arguments, *more]
        if test.program.startswith("test_"):
            command.append("--duration=true")
        if shutil.which("stdbuf"):
            command = ["stdbuf", "-oL", *command]
        limit = min(limit - (time.monotonic() - start), test.seconds)
        result = run(command, limit, self.log, programs.environment | test.environment | (env or {}))
        status, reason = test_verdict(result)
        self.records.add("test", name=name, status=status, seconds=time.monotonic() - start, reason=reason)
        if not note:
            self.run_already.add(test.name)
        return status, result

    def one_by_one(self, tests: list[GpuTest]) -> None:
        """Each by itself. The first that fails runs again, waiting for every kernel, so that the message names the one
        at fault, and then the case by itself under memcheck."""
        looked_into = False
        for number, test in enumerate(tests):
            if self.left() < 1:
                return
            # One that hangs takes its share twice, neither what the others need nor what looking into it does.
            share = min((1.0 if looked_into else 0.5) * self.left(), 2 * self.left() / (len(tests) - number))
            status, result = self.run_test(test, share)
            if status in ("failed", "out of time") and not looked_into:
                looked_into = True
                self.look_into(test, result)

    def look_into(self, test: GpuTest, result: Result) -> None:
        case = case_at_fault(result, test.cases)
        only = [case_filter(case)] if case else []
        again = min(0.4 * self.left(), 25)
        sync = {"BRENIER_SYNC_LAUNCHES": "1"}
        self.run_test(test, again, sync, only, note=", BRENIER_SYNC_LAUNCHES=1")
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if Path(tool).is_file() and self.left() > 1:
            words = [tool, "--tool", "memcheck", "--print-limit", 20]
            self.run_test(test, min(0.6 * self.left(), 30), {}, only, words, note=", memcheck")

    def judge_tests(self, names: list[str]) -> None:
        """Raises where one of these tests did not pass."""
        found = self.records.last("test", "name")
        status = {name: found[name]["status"] if name in found else "not run" for name in names}
        wrong = [name for name in names if status[name] != "passed"]
        skipped = [name for name in wrong if status[name] == "no device"]
        if skipped and len(skipped) == sum(s not in ("not there", "not run") for s in status.values()):
            raise self.skipped(f"{len(skipped)} tests skipped: {found[skipped[0]]['reason']}")
        if wrong:
            worst = next((name for name in wrong if status[name] == "failed"), wrong[0])
            reason = found[worst]["reason"] if worst in found else ""
            raise Failed(
                f"{len(wrong)} of {len(names)} did not pass; {worst}: {status[worst]} {reason}".strip()
            )

    def step_ladder(self, limit: float) -> None:
        """What everything else stands on."""
        self.until = time.monotonic() + limit
        every = self.need_programs().tests
        if not every:
            raise Failed("there are no tests of label gpu")
        tests = [test for test in every if test.name in LADDER] or every
        self.one_by_one(tests)
        self.judge_tests([test.name for test in tests])

    def step_rest(self, limit: float) -> None:
        """The other tests side by side, beside compute-sanitizer on the smallest."""
        self.side_by_side(limit, self.need_programs().tests, FIRST_SANITIZERS)

    def step_mended(self, limit: float) -> None:
        """What did not pass before, one by one; then the others, since the programs are others, and the sanitizer's
        other tools."""
        end = time.monotonic() + limit
        tests, before = self.need_programs().tests, {}
        if self.options.before:
            found = Records.read(self.options.before)
            before = {line["name"]: line["status"] for line in found if line["kind"] == "test"}
        first = [test for test in tests if before.get(test.name, "passed") != "passed"]
        self.until = time.monotonic() + 0.5 * limit
        self.one_by_one(first)
        self.side_by_side(end - time.monotonic(), tests, OTHER_SANITIZERS)

    def side_by_side(self, limit: float, tests: list[GpuTest], sanitizers: Sequence[tuple[str, int]]) -> None:
        """Those of the tests that have not run, and sanitizers, in lanes."""
        self.until = time.monotonic() + limit
        waiting = [test for test in tests if test.name not in self.run_already]
        jobs: list[Callable[[], object]] = [lambda s=s: self.sanitize(*s) for s in sanitizers]
        jobs[2:2] = [lambda t=test: self.run_test(t, self.left()) for test in waiting]
        with concurrent.futures.ThreadPoolExecutor(LANES) as lanes:
            pending = [lanes.submit(lambda job=job: job() if self.left() > 1 else None) for job in jobs]
            try:
                for future in concurrent.futures.as_completed(pending):
                    future.result()
            except BaseException:  # a signal: the lanes end at once, and so do we
                running.close()
                lanes.shutdown(cancel_futures=True)
                raise
        self.judge_tests([test.name for test in tests])
        verdicts = self.records.last("sanitizer", "name")
        names = [self.sanitizer_name(*s) for s in sanitizers]
        found = {name: verdicts[name]["verdict"] if name in verdicts else "not run" for name in names}
        if wrong := [f"{name}: {verdict}" for name, verdict in found.items() if verdict != "clean"]:
            raise Failed(f"{len(wrong)} of {len(found)} sanitizer runs; {wrong[0]}")

    @staticmethod
    def sanitizer_name(tool: str, index: int) -> str:
        return f"{tool} {SANITIZED[index][0]}"

    def sanitize(self, tool: str, index: int) -> None:
        """One tool of compute-sanitizer on one test."""
        test, without, environment = SANITIZED[index]
        programs = self.need_programs()
        try:
            program = programs.path(test, self.until)
        except Failed as error:
            self.records.add(
                "sanitizer", name=self.sanitizer_name(tool, index), verdict=str(error), seconds=0
            )
            return
        start = time.monotonic()
        path = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        command = [path, "--tool", tool, "--error-exitcode", 66, "--print-limit", 20, program]
        command += [f"-tce={without}"] if without else []
        result = run(command, self.left(), self.log, programs.environment | environment)
        seconds = time.monotonic() - start
        verdict = sanitizer_verdict(result)
        self.records.add("sanitizer", name=self.sanitizer_name(tool, index), verdict=verdict, seconds=seconds)

    # --- numbers ---

    def bench(self, bench: Bench, programs: Programs, build: str, number: int, device: str = "cuda") -> str:
        """One run of a benchmark, recorded row by row. Why it is not right; empty where it is."""
        name = build if device == "cuda" else device
        try:
            lines = self.bench_lines(bench, programs, number, device)
            values = {row: value(lines) for row, value in bench.rows.items()}
            trouble = bench.wrong(lines)
            for row, value in values.items():
                self.records.add(
                    "row", row=row, build=name, round=number, value=value, wrong=trouble, lines=lines
                )
        except NoDevice:
            raise
        except (Failed, ValueError, KeyError, IndexError, TypeError) as error:
            trouble = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        if trouble:
            self.records.add("trouble", name=f"{bench.name}, {name}", round=number, reason=trouble)
            return f"{bench.name} on {device}: {trouble}"
        return ""

    def bench_lines(self, bench: Bench, programs: Programs, number: int, device: str) -> list[dict]:
        words = [*bench.words, *(bench.quick if number or device == "cpu" else ())]
        words += ["--device", device, "--threads", "0"]
        if device == "cpu":
            words[words.index("--seconds") + 1] = "0.1"
        file = self.work / f"{bench.program}.json"
        file.unlink(missing_ok=True)
        if bench.to_file:
            words += ["--json", str(file)]
        result = self.call(programs, bench.program, words, RUN_SECONDS)
        if result.status != 0:
            raise Failed("out of time" if result.status is None else result.last())
        lines = json_lines(file.read_text() if bench.to_file and file.is_file() else result.text)
        if not lines:
            raise Failed(f"no numbers: {result.last()}")
        return lines

    def step_alone(self, limit: float) -> None:
        """The GPU alone: what it can do at best, and every row of the predictions once."""
        self.until = time.monotonic() + limit
        programs, wrong = self.need_programs(), []
        try:
            result = self.call(programs, "brenier_bench_device", [], 0.5 * limit)
            lines = json_lines(result.text)
            if result.status == 0 and lines:
                self.records.add("ceilings", lines=lines)
            else:
                wrong.append(f"brenier_bench_device: {result.last()}")
        except NoDevice:
            raise
        except Failed as error:
            wrong.append(str(error))
        wrong += [
            why for bench in BENCHES if self.left() > 1 and (why := self.bench(bench, programs, "A", 0))
        ]
        self.judge_rows(wrong)

    def judge_rows(self, wrong: list[str]) -> None:
        measured = set(self.records.last("row", "row"))
        missing = [row for bench in BENCHES for row in bench.rows if row not in measured]
        if wrong:
            raise Failed(f"{len(wrong)} runs: {wrong[0]}")
        if missing:
            raise TimeoutError(f"{len(missing)} rows not measured: {missing[0]}")

    def step_rounds(self, limit: float) -> None:
        """Three rounds of every row, and of those that are an inner iteration on this machine's CPU too."""
        self.until = time.monotonic() + limit
        programs, wrong = self.need_programs(), []
        for number in range(1 if self.no_device else 3):
            for bench in BENCHES:
                if self.left() < 1:
                    break
                wrong += [why] if (why := self.bench(bench, programs, "A", number)) else []
                if bench.on_cpu and number == 0 and self.left() > RUN_SECONDS:
                    wrong += [why] if (why := self.bench(bench, programs, "A", number, "cpu")) else []
        self.judge_rows(wrong)

    def step_compare(self, limit: float) -> None:
        """Two builds in turn, on every row, for as many rounds as there is time."""
        if not self.against:
            raise Failed("the other build, --against, cannot be used; see the step machine")
        self.until, wrong = time.monotonic() + limit, []
        for number in range(100, 110):
            for bench in BENCHES:
                for name, programs in (("A'", self.need_programs()), ("B", self.against)):
                    if self.left() < 1:
                        return self.judge_rows(wrong)
                    wrong += [why] if (why := self.bench(bench, programs, name, number)) else []
        return self.judge_rows(wrong)

    def step_profile(self, limit: float) -> None:
        """ncu on four kernels; the pages with details and with the machine code are kept, in one archive."""
        self.until = time.monotonic() + limit
        places = [p for where in ("usr/local/cuda*/bin", "opt/nvidia/nsight-compute/*") for p in Path("/").glob(where)]
        ncu = shutil.which("ncu") or next((str(p / "ncu") for p in places if (p / "ncu").is_file()), "")
        if not ncu:
            raise (NoDevice if self.no_device else Failed)("there is no ncu here")
        folder, wrong = self.work / "profiles", []
        folder.mkdir(exist_ok=True)
        for number, profile in enumerate(PROFILES):
            if self.left() < 3:
                wrong.append(f"{profile[0]}: no time left")
                continue
            try:
                self.profile(ncu, folder, self.left() / (len(PROFILES) - number), *profile)
            except NoDevice:
                raise
            except Failed as error:
                wrong.append(f"{profile[0]}: {error}")
        if wrong:
            raise Failed(f"{len(wrong)} of {len(PROFILES)} profiles; {wrong[0]}")

    def profile(
        self,
        ncu: str,
        folder: Path,
        limit: float,
        name: str,
        kernel: str,
        skip: int,
        program: str,
        words: Sequence[str],
    ) -> None:
        programs, end = self.need_programs(), time.monotonic() + limit
        report = folder / f"{name}.ncu-rep"
        target = [programs.path(program, end), *words]
        # Without the last options where this version does not know them: the program then runs to its end.
        for optional in (["--import-source", "no", "--kill", "yes"], []):
            command = [ncu, "--clock-control", "none", "--set", "full", *optional, "-f", "-o", report]
            command += ["-k", f"regex:^{kernel}$", "--launch-skip", skip, "--launch-count", 1, *target]
            result = run(command, 0.8 * (end - time.monotonic()), self.log, programs.environment)
            if report.is_file() or result.status is None:
                break
        if not report.is_file():
            if "no CUDA device" in result.text or "no CUDA backend" in result.text:
                raise self.skipped(result.last())
            raise Failed("out of time" if result.status is None else result.last())
        details = run([ncu, "--import", report, "--page", "details"], 15)
        source = run([ncu, "--import", report, "--page", "source", "--csv"], 15)
        self.records.add("profile", name=name, kernel=kernel, metrics=profile_metrics(details.text))
        for inside, content in (("details.txt", details), ("source.csv", source)):
            with gzip.open(folder / f"{name}.{inside}.gz", "wt", compresslevel=4) as out:
                out.write(content.text)
        self.pack_profiles(folder)
        if details.status != 0 or source.status != 0:
            raise Failed(f"a page is missing: {details.last() if details.status else source.last()}")

    def pack_profiles(self, folder: Path) -> None:
        """After each kernel: one file for all of them, never half of one, and the pages rather than ncu's own reports
        where there is no room for both."""
        unfinished = self.out / "profiles.tar.new"
        for suffixes in ((".gz", ".ncu-rep"), (".gz",)):
            with tarfile.open(unfinished, "w") as content:
                for path in sorted(folder.iterdir()):
                    if path.suffix in suffixes:
                        content.add(path, f"profiles/{path.name}")
            if unfinished.stat().st_size < MOST_OF_A_FILE:
                break
        os.replace(unfinished, self.out / "profiles.tar")

    # --- the method, and its peers ---

    def step_judge(self, limit: float) -> None:
        """The porous medium experiment on the GPU, against closed forms; one seed in the first call, three later."""
        self.until = time.monotonic() + limit
        table = self.work / "judge.json"
        seeds = 1 if self.options.call == 1 else 3
        binary = self.need_programs().path("brenier", self.until)
        command = [python_with("numpy"), ROOT / "bench/paper/judge.py", "--only", "porous_medium"]
        command += ["--seeds", seeds, "--device", "cuda", "--binary", binary, "--json", table, "--verbose"]
        result = run(command, self.left(), self.log, self.programs.environment)
        rows = json.loads(table.read_text())["rows"] if table.is_file() else []
        for row in rows:
            self.records.add("judge", **row)
        if errors := [row["worst"] for row in rows if row["sense"] == "<="]:
            value = max(errors) if all(is_number(x) for x in errors) else None
            self.records.add("row", row=POROUS, build="A", round=0, value=value, wrong="", lines=[])
        if result.status is None:
            raise TimeoutError
        if result.status != 0:
            if "no CUDA device" in result.text or "no CUDA backend" in result.text:
                raise self.skipped(result.last())
            raise Failed(f"judge.py ended with {result.status}: {result.last()}")

    def step_peers(self, limit: float) -> None:
        """PyTorch on the same GPU and the same numbers, interleaved with the engine."""
        self.until, reasons = time.monotonic() + limit, []
        binary = self.need_programs().path("brenier_bench_inner", self.until)
        common = ["--device", "cuda", "--share-inputs", "--binary", binary]
        large = ["--case", LARGE_CASE, "--rounds", 2, "--seconds", 0.5, "--forms", LARGE_FORMS]
        # Seven PyTorch processes compile at once: not with all processors each.
        environment = self.programs.environment | {"PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
        small = [word for case in PEER_CASES for word in ("--case", case)]
        python = python_with("torch", "safetensors")
        for share, words in ((0.7, [*small, "--rounds", 3, "--seconds", 0.4]), (1, large)):
            file = self.work / "peers.json"
            file.unlink(missing_ok=True)
            command = [python, ROOT / "bench/peers/compare.py", *common, *words, "--json", file]
            result = run(command, share * self.left(), self.log, environment)
            for case, lines in (json.loads(file.read_text()) if file.is_file() else {}).items():
                self.records.add("peers", case=case, lines=lines)
                self.record_ratios(case, lines)
                for line in lines:
                    if "failed" not in line and (
                        wrong := wrong_by("gradient_rel_error", GRADIENT_BAR)([line])
                    ):
                        reasons.append(f"{case}, {line['form']}: {wrong}")
            if result.status != 0:
                reasons.append("out of time" if result.status is None else result.last())
        if reasons:
            raise Failed("; ".join(reasons))

    def record_ratios(self, case: str, lines: list[dict]) -> None:
        """The predicted ratios, of the first case."""
        times = {
            x["form"]: x["seconds_median"]
            for x in lines
            if "failed" not in x and is_number(x.get("seconds_median"))
        }
        ours = times.pop("brenier", None)
        if case != PEER_CASES[0] or not ours or not times:
            return
        for row, time_ in ((EAGER, times.get("eager")), (STRONGEST, min(times.values()))):
            if time_:
                self.records.add("row", row=row, build="A", round=0, value=time_ / ours, wrong="", lines=[])
