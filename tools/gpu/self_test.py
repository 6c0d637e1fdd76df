# SPDX-License-Identifier: MIT
"""The self-test of tools/gpu_check: parsers, budgets, signals, programs that are wrong, and the report, on made-up
programs and results."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from types import ModuleType

from gpu import headers, rows, steps, verdicts
from gpu.process import ROOT, Failed, Log, NoDevice, Result, run
from gpu.programs import GpuTest, Programs, file_digest, in_order, source_digest
from gpu.report import render, results
from gpu.steps import Check

GOOD = "[doctest] test cases: 2 | 2 passed | 0 failed | 0 skipped\n[doctest] Status: SUCCESS!\n"


def program(path: Path, body: str) -> Path:
    """A shell script in the place of a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def raises(kind: type[Exception], call) -> Exception:
    try:
        call()
    except kind as error:
        assert type(error) is kind, repr(error)
        return error
    raise AssertionError(f"no {kind.__name__}")


def options(folder: Path, **more: object) -> argparse.Namespace:
    (folder / "out").mkdir(exist_ok=True)
    given = {
        "out": folder / "out",
        "build": folder / "build",
        "commit": "now",
        "deps": None,
        "jobs": 1,
        "call": 1,
    }
    given |= {"packed": None, "against": None, "before": None}
    return argparse.Namespace(**(given | more))


def packed(folder: Path, bodies: dict[str, str], tests: list[GpuTest], architecture: str = "90") -> Path:
    """A folder as an archive of tools/gpu_pack unpacks to."""
    for name, body in bodies.items():
        program(folder / "bin" / name, body)
    digests = {name: {"sha256": file_digest(folder / "bin" / name)} for name in bodies}
    manifest = {"stamp": "1", "sources": source_digest(ROOT), "commit": "abc", "architecture": architecture}
    manifest |= {"programs": digests, "tests": [test.as_json() for test in tests]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


class Path_:
    """A folder of made-up tools before all others in PATH, for a while."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, os.environ["PATH"]

    def __enter__(self) -> None:
        os.environ["PATH"] = f"{self.folder}:{self.before}"

    def __exit__(self, *_: object) -> None:
        os.environ["PATH"] = self.before


# --- what others print -------------------------------------------------------------------------------------------


def check_parsers(main: ModuleType, folder: Path) -> None:
    prefix = 'a\nset(_IMPORT_PREFIX "/usr")\n'
    assert headers.relocatable(prefix, 3).split("\n")[1].endswith('DIR}/../../.." ABSOLUTE)')
    assert headers.relocatable("set(_IMPORT_PREFIX)\n", 3) == "set(_IMPORT_PREFIX)\n"
    log = Log(folder / "log", command_bytes=1000, bytes_in_all=3000)
    start = time.monotonic()
    stopped = run(["sh", "-c", "echo begun; sleep 30"], 0.3, log)
    assert stopped.status is None and stopped.text == "begun\n" and time.monotonic() - start < 10
    assert run(["sh", "-c", "echo no >&2; exit 3"], 5).last() == "no"
    assert run(["no-such-program"], 5, log).status == 127
    run(["sh", "-c", "echo first; yes | head -3000; echo last"], 5, log)
    text = log.path.read_text()
    assert "begun" in text and "out of time" in text and "first" in text and "last\n[status 0]" in text
    assert "characters left out" in text and len(text) < 3000
    for _ in range(9):
        log.add("much", "y" * 900, "status 0")
    assert log.path.stat().st_size <= 3000  # whatever comes
    for line in (
        "a.cpp(12): error: identifier is undefined",
        "a.cpp(12): error #20: no",
        "a.cpp:1:2: fatal error: b.hpp: No such file or directory",
        "ptxas error   : too much shared memory",
        "CMake Error at CMakeLists.txt:3",
        "x.o: undefined reference to `f'",
    ):
        command = "nvcc -Werror all-warnings -x cu -c errors.cpp"
        assert Result(1, f"[1/2] {command}\n{line}\n2 errors detected\nstopped").first_error() == line
    assert Result(1, "a\nb\n").first_error() == "b"

    summary = "========= ERROR SUMMARY: 0 errors\n"
    assert verdicts.sanitizer_verdict(Result(0, GOOD + summary)) == "clean"
    hazards = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    assert verdicts.sanitizer_verdict(Result(0, GOOD + hazards)) == "clean"
    for status, text in (
        (0, GOOD),
        (0, summary),
        (66, GOOD + "ERROR SUMMARY: 2 errors"),
        (1, GOOD + summary),
        (77, "SKIPPED: none"),
        (0, GOOD + hazards.replace("0 haz", "1 haz")),
        (None, GOOD + summary),
    ):
        assert verdicts.sanitizer_verdict(Result(status, text)) != "clean", (status, text)

    verdict = verdicts.test_verdict
    assert verdict(Result(0, GOOD)) == ("passed", "")
    assert verdict(Result(77, "SKIPPED: CUDA trouble\n")) == ("no device", "SKIPPED: CUDA trouble")
    line = 79 * "="
    first = f"{line}\na.cpp:1:\nTEST CASE:  the first\n\n0.5 s: the first\n"
    second = f"{line}\na.cpp:2:\nTEST CASE:  the second\n\na.cpp:3: ERROR: CHECK( 1 < 0 ) is NOT correct!\n"
    assert verdict(Result(1, first + second + line)) == ("failed", "1 cases: the second")
    assert verdict(Result(None, first)) == ("out of time", "last case that ended: the first")
    assert verdict(Result(-11, first))[1].startswith("status -11, after the first")
    cases = ["the first", "the second, in double", "the third"]
    assert verdicts.case_at_fault(Result(1, first + second), cases) == "the second"
    assert verdicts.case_at_fault(Result(None, first), cases) == "the second, in double"  # it hangs
    assert verdicts.case_at_fault(Result(None, ""), []) == ""
    assert verdicts.case_filter("a, b*") == "--test-case=a? b?"
    details = "    Duration                         us        12.34\n    Registers Per Thread  register/thread   128\n"
    assert verdicts.profile_metrics(details) == {
        "Duration": "12.34 us",
        "Registers Per Thread": "128 register/thread",
    }


def check_rows(main: ModuleType, folder: Path) -> None:
    """Every measured row finds its prediction, and what is off by more than a third is marked."""
    expected = rows.predictions(ROOT / "bench/results")
    assert expected.keys() <= set(rows.row_names()), expected.keys() - set(rows.row_names())
    for name in (
        "an inner iteration, N = 1000, (100,20), d = 1, exact log det",
        rows.POROUS,
        rows.EAGER,
        rows.STRONGEST,
    ):
        assert name in expected, name
    for text, low, high in (
        ("9 to 12 µs, two nodes", 9e-6, 12e-6),
        ("1.0 to 1.5 ms", 1e-3, 1.5e-3),
        ("6.5e12 pairs/s, at most 8.2e12", 6.5e12, 6.5e12),
        ("80 to 120 times", 80, 120),
        ("F and deviation as on the CPU: below 1e-4", 0, 1e-4),
        ("9 to 11 s; with 4 steps 7 to 8 s", 9, 11),
    ):
        found = rows.prediction("x", text)
        assert abs(found.low - low) <= 1e-9 * low and abs(found.high - high) <= 1e-9 * high, (text, found)
    assert rows.prediction("x", "nobody knows") is None
    one = rows.prediction("x", "9 to 12 µs")
    assert one.verdict(12e-6) == one.verdict(15e-6) == one.verdict(7e-6) == "as predicted"
    assert "1.5 times the most" in one.verdict(18e-6) and "0.67 times the least" in one.verdict(6e-6)
    assert one.verdict(None) == "NOT A NUMBER"
    (folder / "2026-01-01-gpu-predictions.md").write_text(
        "| what | prediction |\n| --- | --- |\n| a | 1 to 2 ms |\n"
    )
    (folder / "2026-02-01-gpu-predictions.md").write_text("| a | 2 to 3 ms | why |\n")
    assert rows.predictions(folder)["a"].low == 2e-3  # the newest
    assert rows.predictions(folder / "none") == {}
    wrong = rows.wrong_by("gradient_rel_error", 1e-4)
    assert not wrong([{"gradient_rel_error": 1e-4}])
    for value in (None, 2e-4, float("nan")):
        assert wrong([{"gradient_rel_error": 1e-7}, {"gradient_rel_error": value}]), value
    assert wrong([{}])


# --- time --------------------------------------------------------------------------------------------------------


def check_budget(main: ModuleType, folder: Path) -> None:
    """Limits add up to what there is: what a step leaves, the others have, and what it takes too much, they lack."""
    now, clock = [0.0], time.monotonic
    main.time.monotonic = lambda: now[0]
    try:
        for taken in (0.0, 0.5, 1.0):
            for plan, seconds in main.PLANS.values():
                now[0], total = 0.0, seconds - main.RESERVE
                budget = main.Budget(plan, total)
                for name in plan:
                    limit = budget.begin(name)
                    assert limit >= plan[name] / sum(plan.values()) * total - 1e-9  # at least its share
                    now[0] += taken * limit
                    assert now[0] <= total + 1e-9
                assert taken < 1 or abs(now[0] - total) < 1e-6
        now[0] = 0.0
        budget = main.Budget({"a": 1, "b": 1, "c": 2}, 100)
        assert budget.begin("a") == 25
        now[0] = 61.0  # it did not keep its limit
        assert budget.begin("b") == 13
        now[0] = 200.0
        assert budget.begin("c") == 0
    finally:
        main.time.monotonic = clock
    assert main.PLANS[1][1] <= 330 and main.PLANS[2][1] <= 300
    assert all(hasattr(Check, f"step_{name}") for plan, _ in main.PLANS.values() for name in plan)


def check_report(main: ModuleType, folder: Path) -> None:
    """Two calls: rounds of the same programs are taken together; of other programs, the later call's."""
    row = rows.BENCHES[0]
    name = next(iter(row.rows))

    def call(file: str, stamp: str, values: list[float]) -> Path:
        lines = [{"kind": "machine", "stamp": stamp, "gpu": {"name": "Some GPU"}, "date": "2026-01-01T00:00"}]
        lines += [
            {"kind": "row", "row": name, "build": "A", "round": 0, "value": x, "wrong": "", "lines": []}
            for x in values
        ]
        (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder / file

    def shown(*files: Path) -> str:
        out = io.StringIO()
        kept, main.predictions = main.predictions, lambda folder: {name: rows.prediction(name, "9 to 12 µs")}
        with contextlib.redirect_stdout(out):
            main.report(list(files))
        main.predictions = kept
        return next(line for line in out.getvalue().splitlines() if line.startswith(f"| {name} "))

    first = call("1", "a", [30e-6])
    with first.open("a") as cut_off:
        cut_off.write('{"kind": "ro')
    assert "| 30 µs |" in shown(first) and "OFF: 2.5 times the most" in shown(first)
    assert "| 20 µs | 10 µs to 30 µs, 2 rounds" in shown(first, call("2", "a", [10e-6]))
    assert "| 10 µs |" in shown(first, call("3", "b", [10e-6])) and "as predicted" in shown(
        first, call("3", "b", [1e-5])
    )


def check_steps(main: ModuleType, folder: Path) -> None:
    """No step and no report ends the others."""

    class Made(Check):
        def step_build(self, limit: float) -> None:
            self.records.add("test", name="t", status="failed", seconds=1.0, reason="why")
            raise Failed("it | broke")

        def step_ladder(self, limit: float) -> None:
            raise TimeoutError

        def step_rest(self, limit: float) -> None:
            self.records.add("test", name="half of it", status="passed", seconds=1.0, reason="")
            return {}["no such key"]

        def step_judge(self, limit: float) -> None:
            raise NoDevice("program: none")

        def step_alone(self, limit: float) -> None:
            raise AttributeError("not expected")

        def step_peers(self, limit: float) -> None:
            brenier = {"form": "brenier", "seconds_median": 1e-5, "gradient_rel_error": 1e-7}
            lines = [
                brenier,
                brenier | {"form": "slow", "seconds_median": 3e-5},
                brenier | {"form": "odd", "seconds_median": None, "gradient_rel_error": None},
                {"form": "none", "failed": "no\nkernel"},
            ]
            self.records.add("peers", case=steps.PEER_CASES[0], lines=lines)
            self.record_ratios(steps.PEER_CASES[0], lines)

    def statuses(check: Check) -> list[str]:
        return [x["status"] for x in check.records.all if x["kind"] == "step" and x["status"] != "running"]

    def plan(*names: str) -> dict[str, float]:
        return dict.fromkeys(names, 1)

    check = Made(options(folder))
    main.execute(check, plan("build", "ladder", "alone", "peers"), 60)
    assert statuses(check) == ["failed", "out of time", "failed", "passed"], statuses(check)
    text = (folder / "out/gpu_check.md").read_text()
    case = steps.PEER_CASES[0]
    for part in (
        "it / broke",
        f"| {case} | slow | 30.0 | 3.00 | 1.0e-07 |",
        f"| {case} | odd | not a number |  | not a number |",
        f"| {case} | none | failed |",
        "| t | failed | 1.0 | why |",
        "AttributeError",
        "| 3.0 times |",
    ):
        assert part in text, (part, text)
    assert "not expected" in check.log.path.read_text()
    # A report that cannot be made does not end the steps, and the numbers are there.
    main.render = lambda records, expected: {}["no"]
    check = Made(options(folder))
    main.execute(check, plan("rest", "build"), 60)
    main.render = render
    assert statuses(check) == ["failed", "failed"] and not check.no_device
    assert "This report failed" in (folder / "out/gpu_check.md").read_text()
    assert "half of it" in (folder / "out/gpu_check.jsonl").read_text()
    # Failures are taken for those of a machine without a GPU only after something has said that it is one.
    check = Made(options(folder))
    main.execute(check, plan("alone", "judge", "rest"), 60)
    assert statuses(check) == ["failed", "no device", "failed"], statuses(check)
    check = Made(options(folder))
    main.execute(check, plan("judge", "build"), 60)
    assert statuses(check) == ["no device", "no device"]
    check = Made(options(folder))
    main.execute(check, plan("build", "ladder"), 0.6)
    assert statuses(check) == ["out of time", "out of time"]


def check_signals(main: ModuleType, folder: Path) -> None:
    """A signal, and the end of the time, leave the results so far, what the running program had printed, and at most
    eight files; and no program outlives the check."""
    hanging = "echo 'TEST CASE:  begun'; echo $$ > hangs.pid; exec sleep 300"
    bodies = {
        "test_good": "echo fine",
        "test_hangs": f"cd {folder}; {hanging}",
        "brenier_bench_device": "exit 77",
    }
    tests = [GpuTest("test_operations_cuda", "test_good"), GpuTest("test_device_loop_cuda", "test_hangs")]
    source = packed(folder / "packed", bodies, tests)
    tools = folder / "tools"
    program(tools / "nvidia-smi", "echo 'Some GPU, 1, 9.0, 80 GiB, 1 MHz, 700 W'")
    script = [sys.executable, str(ROOT / "tools/gpu_check")]
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "TMPDIR": str(folder / "work")}

    def call(name: str, *words: str, **kept: object) -> subprocess.Popen:
        (folder / "hangs.pid").unlink(missing_ok=True)
        (folder / "work").mkdir(exist_ok=True)
        command = [*script, str(folder / name), "--packed", str(source), "--only", "ladder", *words]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def judge(name: str, output: str, status: int, reason: str) -> None:
        assert status == 1 and reason in output, (status, output)
        out = folder / name
        assert {path.name for path in out.iterdir()} == {
            "gpu_check.jsonl",
            "gpu_check.log",
            "gpu_check.md",
            "results.md",
        }
        records = [json.loads(line) for line in (out / "gpu_check.jsonl").read_text().splitlines()]
        assert any(x["kind"] == "test" and x["status"] == "passed" for x in records), records
        assert "begun" in (out / "gpu_check.log").read_text()
        assert reason in (out / "gpu_check.md").read_text()
        pid = int((folder / "hangs.pid").read_text())
        raises(ProcessLookupError, lambda: os.kill(pid, 0))
        assert not list((folder / "work").iterdir())  # nothing stays behind

    for number in (signal.SIGTERM, signal.SIGHUP):
        process = call(f"by{number}", "--seconds", "200")
        while not (folder / "hangs.pid").is_file():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
        judge(f"by{number}", output, process.returncode, signal.Signals(number).name)
    start = time.monotonic()
    process = call("late", "--seconds", "12")
    output, _ = process.communicate(timeout=40)
    assert time.monotonic() - start < 30
    judge("late", output, process.returncode, "out of time")


# --- programs ----------------------------------------------------------------------------------------------------


def check_programs(main: ModuleType, folder: Path) -> None:
    """Programs that are not those that were packed, are missing, do not start or are for another GPU are named."""
    bodies = {"test_a": "echo a", "test_b": "echo b", "test_c": "echo c", "test_d": "echo d"}
    tests = [GpuTest(f"{name}_cuda", name) for name in bodies]
    source = packed(folder / "packed", bodies, tests)
    programs = Programs.unpacked(source)
    assert programs.check("9.0") == {} and programs.path("test_a").name == "test_a"
    program(source / "bin/test_b", "echo another")
    (source / "bin/test_c").unlink()
    broken = source / "bin/test_d"
    broken.write_bytes(b"\x7fELF of another machine")
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["programs"]["test_d"]["sha256"] = file_digest(broken)
    (source / "manifest.json").write_text(json.dumps(manifest))
    trouble = Programs.unpacked(source).check("9.0")
    assert (
        trouble["test_b"] == "is not what was packed" and trouble["test_c"] == "not in the archive"
    ), trouble
    assert "test_a" not in trouble and "test_d" in trouble, trouble
    other = Programs.unpacked(source).check("8.0")
    assert other["test_a"] == "built for sm_90, the GPU is 8.0", other
    programs = Programs.unpacked(source)
    programs.check("9.0")
    assert "is not what was packed" in str(raises(Failed, lambda: programs.path("test_b")))
    raises(Failed, lambda: Programs.unpacked(folder))
    tree = folder / "tree"
    (tree / "kernels").mkdir(parents=True)
    (tree / "kernels/a.cpp").write_text("int a;")
    before = source_digest(tree)
    (tree / "README.md").write_text("text")
    (tree / "kernels/a.log").write_text("text")
    (tree / "kernels/a.py").write_text("text")
    assert source_digest(tree) == before and source_digest(tree, scripts=True) != before
    (tree / "kernels/a.cpp").write_text("int b;")
    assert source_digest(tree) != before
    names = [
        test.name
        for test in in_order([GpuTest(n, n) for n in ("z", "test_operations_cuda", "test_dialect_cuda")])
    ]
    assert names == ["test_dialect_cuda", "test_operations_cuda", "z"]
    (folder / "not.tar.xz").write_text("nothing")
    check = Check(options(folder, packed=folder / "not.tar.xz"))
    assert "cannot be unpacked" in str(raises(Failed, lambda: check.find_programs(5)))
    with tarfile.open(folder / "p.tar.xz", "w:xz") as content:
        content.add(source, ".")
    check = Check(options(folder, packed=folder / "p.tar.xz"))
    with tempfile.TemporaryDirectory() as empty:  # nothing to build with
        before, os.environ["PATH"] = os.environ["PATH"], empty
        try:
            said = str(raises(Failed, lambda: check.find_programs(5)))
        finally:
            os.environ["PATH"] = before
    assert "3 of 4 programs do not start here: test_b, test_c, test_d" in said, said
    assert check.programs.path("test_a").is_file()  # the others can be used all the same
    assert {x["name"] for x in check.records.all if x["kind"] == "program"} == {"test_b", "test_c", "test_d"}


def check_fallback(main: ModuleType, folder: Path) -> None:
    """A program that does not start is built beside the first tests, and used once it is there."""
    bodies = {"test_operations_cuda": "echo packed", "test_pairs_cuda": "echo old"}
    source = packed(folder / "packed", bodies, [GpuTest(name, name) for name in bodies])
    program(source / "bin/test_pairs_cuda", "echo damaged")
    build, tools = folder / "build", folder / "tools"
    script = f"""if [ "$1" = -S ]; then
  mkdir -p {build}/tests/cuda; echo CMAKE_GENERATOR:INTERNAL=Ninja > {build}/CMakeCache.txt; exit 0
fi
case "$*" in *"--target test_pairs_cuda "*"-- -k 0") ;; *) exit 9;; esac
sleep 1; printf '#!/bin/sh\\necho built; exit 3\\n' > {build}/tests/cuda/test_pairs_cuda
chmod +x {build}/tests/cuda/test_pairs_cuda"""
    program(tools / "cmake", script)
    program(tools / "nvcc", "echo release 1.0, V1.0.1")
    with Path_(tools):
        check = Check(options(folder, packed=source))
        check.end = time.monotonic() + 30
        check.find_programs(5)
        check.until = time.monotonic() + 5
        check.one_by_one(check.programs.tests[:1])
        check.until = time.monotonic() + 15
        check.run_test(check.programs.tests[1], 10)
        check.programs.build.thread.join()
    found = check.records.last("test", "name")
    assert found["test_operations_cuda"]["status"] == "passed"
    assert found["test_pairs_cuda"]["reason"].startswith("status 3"), found  # the built one, and waited for


def check_build(main: ModuleType, folder: Path) -> None:
    """One source does not compile: the rest is built, old programs are gone, and the reason is its error."""
    build, tools = folder / "build", folder / "tools"
    stale = [build / "tools/brenier", build / "tests/cuda/test_old_cuda"]
    for old in stale:
        old.parent.mkdir(parents=True)
        old.write_text("of an earlier commit")
    script = f"""if [ "$1" = -S ]; then
  echo CMAKE_GENERATOR:INTERNAL=Ninja > {build}/CMakeCache.txt; exit 0
fi
case "$*" in *"-- -k 0") ;; *) exit 9;; esac
mkdir -p {build}/bench; touch {build}/bench/brenier_bench_device
echo 'nvcc -Werror all-warnings -c a.cpp'; echo 'a.cpp(3): error: no such type'; echo 'ninja: stopped'
exit 1"""
    program(tools / "cmake", script)
    program(
        tools / "ctest",
        """echo '{"tests": [{"name": "test_new_cuda", "command": ["/x/test_new_cuda", "-a"], "properties":
      [{"name": "TIMEOUT", "value": 9}, {"name": "LABELS", "value": ["gpu"]}]}]}'""",
    )
    with Path_(tools):
        check = Check(options(folder))
        error = raises(Failed, lambda: check.step_build(20))
    assert str(error) == "the build ended with 1: a.cpp(3): error: no such type", error
    assert not any(old.exists() for old in stale)
    (test,) = check.programs.tests
    assert (test.program, test.arguments, test.seconds) == ("test_new_cuda", ["-a"], 9), test
    assert check.programs.path("brenier_bench_device").is_file()
    assert "test_new_cuda: not built" in str(raises(Failed, lambda: check.programs.path("test_new_cuda")))


def check_machine(main: ModuleType, folder: Path) -> None:
    """What nvidia-smi says, and what it does not say."""

    def machine() -> Check:
        check = Check(options(folder))
        check.step_machine(8)
        return check

    with Path_(folder):
        program(folder / "nvidia-smi", "echo 'No devices were found'; exit 6")
        raises(NoDevice, machine)
        program(folder / "nvidia-smi", "echo 'Driver/library version mismatch'; exit 18")
        raises(Failed, machine)
        program(folder / "nvidia-smi", '[ "$1" = -L ] && echo "GPU 0: Some GPU (UUID: x)" || exit 2')
        assert machine().machine["gpu"] == {"name": "Some GPU"}
        program(folder / "nvidia-smi", "echo 'Some GPU, 1, 9.0, 80 GiB, 1 MHz, 700 W'")
        assert machine().machine["gpu"]["compute_cap"] == "9.0"


# --- the steps ---------------------------------------------------------------------------------------------------


def check_tests(main: ModuleType, folder: Path) -> None:
    """Programs that pass, fail, hang, are not there and find no device, each with a limit of its own; the first that
    fails is looked into."""
    bodies = {
        "test_good": "echo fine",
        "test_bad": 'echo "TEST CASE:  sums $BRENIER_SYNC_LAUNCHES\n ERROR: no"; echo "with: $*"; exit 1',
        "test_hangs": "echo 'TEST CASE:  begun'; sleep 30",
        "test_late": "echo late",
    }
    tests = [GpuTest(name, name) for name in bodies] + [GpuTest("test_gone", "test_gone")]
    source = packed(folder / "packed", bodies, tests)
    tools = folder / "tools"
    program(
        tools / "compute-sanitizer", 'while [ "$1" != 20 ]; do shift; done; shift; echo checked; exec "$@"'
    )

    def check(*wanted: str) -> Check:
        made = Check(options(folder, packed=source))
        made.programs = Programs.unpacked(source)
        made.programs.tests = [test for test in tests if test.name in wanted or not wanted]
        return made

    with Path_(tools):
        one = check()
        error = raises(Failed, lambda: one.step_ladder(5))
        found = one.records.last("test", "name")
        statuses = [found[test.name]["status"] for test in tests]
        assert statuses == ["passed", "failed", "out of time", "passed", "not there"], found
        assert "begun" in found["test_hangs"]["reason"], found
        assert "test_bad: failed 1 cases: sums" in str(error), error
        assert found["test_bad, BRENIER_SYNC_LAUNCHES=1"]["reason"].endswith("sums 1")
        assert found["test_bad, memcheck"]["seconds"] < 4 and "test_hangs, memcheck" not in found
        text = one.log.path.read_text()
        assert "checked" in text and "with: --test-case=sums --duration=true" in text
        written = [json.loads(line) for line in one.records.path.read_text().splitlines()]
        assert len(written) == 7 and all("at" in line for line in written)  # each as it came
    one = check("test_good")
    one.step_ladder(6)
    one = check("test_hangs")  # alone, too, it leaves time to look into it
    with Path_(tools):
        raises(Failed, lambda: one.step_ladder(5))
    found = one.records.last("test", "name")
    assert "test_hangs, memcheck" in found and found["test_hangs"]["seconds"] < 4, found
    # Side by side: a hanging one costs only itself, and what has run does not run again.
    one = check("test_good", "test_hangs", "test_late")
    one.run_test(tests[0], 5)
    error = raises(Failed, lambda: one.side_by_side(2.5, one.programs.tests, ()))
    assert "1 of 3 did not pass; test_hangs: out of time" in str(error), error
    assert sum(x["kind"] == "test" for x in one.records.all) == 3
    # The second call begins with what did not pass in the first.
    before = folder / "before.jsonl"
    before.write_text('{"kind": "test", "name": "test_late", "status": "failed"}\n')
    one = check("test_good", "test_late")
    one.options.before = before
    raises(Failed, lambda: one.step_mended(6))  # there is no sanitized test
    assert [x["name"] for x in one.records.all if x["kind"] == "test"] == ["test_late", "test_good"]
    program(source / "bin/test_good", "echo 'SKIPPED: driver too old'; exit 77")
    assert "driver too old" in str(raises(NoDevice, lambda: check("test_good").step_ladder(6)))
    one = check("test_good")
    one.machine["gpu"] = {"name": "seen"}  # then it is not that there is none
    assert "driver too old" in str(raises(Failed, lambda: one.step_ladder(6)))


def check_numbers(main: ModuleType, folder: Path) -> None:
    """Each row of the predictions is recorded; a gradient that is wrong or not a number fails the step."""
    line = '"seconds_median": 1e-5, "op": "%s", "dim": %d, "pairs_per_second": 1e12'
    ops = [("interaction_log", 1), ("interaction_log", 2), ("interaction_log_energy", 1), ("map", 128)]
    ops_lines = "\n".join('{%s, "error": 1e-8}' % (line % op) for op in ops)
    small = '{"op": "interaction_log", "dim": 1, "pairs_per_second": 1, "seconds_median": 1, "error": 0}'
    writes = f"""while [ "$1" != --json ]; do shift; done
cat > $2 <<'END'
{small}
{ops_lines}
END"""
    inner = 'echo \'{"seconds_median": 1.1e-5, "gradient_rel_error": %s}\''
    bodies = {
        "brenier_bench_device": "echo '{\"fma_float_flops\": 6e13}'",
        "brenier_bench_inner": inner % "1e-7",
        "brenier_bench_sinkhorn": 'echo \'{"op": "sinkhorn", "seconds_median": 3e-3, "error": 1e-8}\'',
        "brenier_bench_ops": writes,
    }
    source = packed(folder / "packed", bodies, [])

    def check() -> Check:
        made = Check(options(folder, packed=source))
        made.programs = made.against = Programs.unpacked(source)
        return made

    one = check()
    one.step_alone(60)
    assert {x["row"] for x in one.records.all if x["kind"] == "row"} | {
        rows.POROUS,
        rows.EAGER,
        rows.STRONGEST,
    } == set(rows.row_names())
    expected = {name: rows.prediction(name, "0.45 to 0.6 ms") for name in rows.row_names()}
    text = results(one.records.all, expected)
    assert "| 1.00e+12 pairs/s |" in text and "| 1.00e+00 pairs/s |" not in text  # of the largest clouds
    assert "| 11 µs |" in text and "OFF: 5 times the most" in text and "6e+13" in text, text
    assert "| not measured |" in text  # the judge and the peers have not run
    one.step_compare(2)
    assert "| 1.000 |" in results(one.records.all, expected)
    one.step_rounds(60)
    text = results(one.records.all, expected)
    assert "4 rounds" in text and "| 1.00 |" in text, text  # beside the CPU
    for value in ("null", "2e-3"):
        program(source / "bin/brenier_bench_inner", inner % value)
        one = check()
        assert "gradient_rel_error" in str(raises(Failed, lambda: one.step_alone(60)))
        assert "| WRONG: gradient_rel_error" in results(one.records.all, expected)
    program(source / "bin/brenier_bench_inner", "echo nothing")
    assert "nothing" in str(raises(Failed, lambda: check().step_alone(60)))
    program(source / "bin/brenier_bench_device", "echo 'SKIPPED: none'; exit 77")
    raises(NoDevice, lambda: check().step_alone(9))
    program(source / "bin/brenier_bench_device", "echo '{}'")
    program(source / "bin/brenier_bench_inner", "sleep 20")
    start = time.monotonic()
    one = check()
    raises(Failed, lambda: one.step_alone(2))
    assert time.monotonic() - start < 12


def check_profiles(main: ModuleType, folder: Path) -> None:
    """The pages are kept, in one archive; a kernel that cannot be profiled costs only itself."""
    tools = folder / "tools"
    program(
        tools / "ncu",
        """case "$*" in
*--page\\ details) echo "    Duration  us  7.5";;
*--page\\ source*) echo "#,Source";;
*soft_minimum*) echo "==ERROR== no counters"; exit 1;;
*) while [ "$1" != -o ]; do shift; done; echo report > "$2";;
esac""",
    )
    bodies = {name: "true" for name in ("brenier_bench_inner", "brenier_bench_sinkhorn")}
    source = packed(folder / "packed", bodies, [])
    check = Check(options(folder, packed=source))
    check.programs = Programs.unpacked(source)
    with Path_(tools):
        assert "1 of 4 profiles; soft_minimum: ==ERROR== no counters" in str(
            raises(Failed, lambda: check.step_profile(30))
        )
    with tarfile.open(folder / "out/profiles.tar") as content:
        names = content.getnames()
    assert len(names) == 9 and "profiles/step_large.source.csv.gz" in names, names
    assert check.records.last("profile", "name")["step_small"]["metrics"] == {"Duration": "7.5 us"}
    assert "--kill yes" in check.log.path.read_text()
    most, steps.MOST_OF_A_FILE = steps.MOST_OF_A_FILE, 1
    check.pack_profiles(check.work / "profiles")
    steps.MOST_OF_A_FILE = most
    with tarfile.open(folder / "out/profiles.tar") as content:
        assert len(content.getnames()) == 6


def self_test(main: ModuleType) -> None:
    parts = (
        check_parsers,
        check_rows,
        check_report,
        check_budget,
        check_steps,
        check_signals,
        check_programs,
        check_fallback,
    )
    parts += (check_build, check_machine, check_tests, check_numbers, check_profiles)
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            part(main, Path(folder))
    print("gpu_check: self-test passed")
