# SPDX-License-Identifier: MIT
"""The self-test of tools/gpu_check: parsers, time limits and the report, on made-up programs and results."""

from __future__ import annotations

import argparse
import json
import os
import stat
import tempfile
import time
from pathlib import Path
from types import ModuleType

import gpu_programs
import gpu_steps
from gpu_programs import Failed, GpuTest, NoDevice, Result, run, sanitizer_verdict, test_verdict
from gpu_report import Step, render

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


def check_parsers(main: ModuleType) -> None:
    prefix = 'a\nset(_IMPORT_PREFIX "/usr")\n'
    assert main.relocatable(prefix, 3).split("\n")[1].endswith('DIR}/../../.." ABSOLUTE)')
    assert main.relocatable("set(_IMPORT_PREFIX)\n", 3) == "set(_IMPORT_PREFIX)\n"
    start = time.monotonic()
    stopped = run(["sh", "-c", "echo begun; sleep 30"], 0.3)
    assert stopped.status is None and stopped.text == "begun\n" and time.monotonic() - start < 10
    assert run(["sh", "-c", "echo no >&2; exit 3"], 5).last() == "no"
    assert run(["no-such-program"], 5).status == 127
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
    assert sanitizer_verdict(Result(0, GOOD + summary)) == "clean"
    hazards = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    assert sanitizer_verdict(Result(0, GOOD + hazards)) == "clean"
    for status, text in (
        (0, GOOD),
        (0, summary),
        (66, GOOD + "ERROR SUMMARY: 2 errors"),
        (1, GOOD + summary),
        (0, GOOD + hazards.replace("0 haz", "1 haz")),
        (None, GOOD + summary),
    ):
        assert sanitizer_verdict(Result(status, text)) != "clean", (status, text)

    assert test_verdict(Result(0, GOOD)) == ("passed", "")
    assert test_verdict(Result(77, "SKIPPED: CUDA trouble\n")) == ("skipped", "SKIPPED: CUDA trouble")
    line = 79 * "="
    first = f"{line}\na.cpp:1:\nTEST CASE:  the first\n\n0.5 s: the first\n"
    second = f"{line}\na.cpp:2:\nTEST CASE:  the second\n\na.cpp:3: ERROR: CHECK( 1 < 0 ) is NOT correct!\n"
    assert test_verdict(Result(1, first + second + line)) == ("failed", "1 cases: the second")
    assert test_verdict(Result(None, first)) == ("out of time", "last case that ended: the first")
    assert test_verdict(Result(-11, first))[1].startswith("status -11, after the first")

    bar = gpu_programs.GRADIENT_BAR
    assert not gpu_programs.wrong_gradient({"gradient_rel_error": bar})
    assert gpu_programs.wrong_gradient({})
    for value in (None, 2 * bar, float("nan")):
        assert gpu_programs.wrong_gradient({"gradient_rel_error": value}), value
    assert gpu_programs.worst_of([1.0, 3.0, 2.0]) == 3 and gpu_programs.worst_of([1.0, None]) is None


def options(folder: Path) -> argparse.Namespace:
    return argparse.Namespace(out=folder, build=folder / "build", commit="now", deps=None, jobs=1)


def check_tests(main: ModuleType, folder: Path) -> None:
    """Programs that pass, fail, hang, are not there and find no device, each with a limit of its own."""
    check = main.Check(options(folder))
    bodies = {
        "test_good": "echo fine",
        "test_bad": 'echo "TEST CASE:  sums $BRENIER_SYNC_LAUNCHES\n ERROR: no"; exit 1',
        "test_hangs": "echo 'TEST CASE:  begun'; sleep 30",
        "test_late": "echo late",
    }
    tests = [GpuTest(name, [str(program(folder / name, body))]) for name, body in bodies.items()]
    tests.append(GpuTest("test_gone", [str(folder / "test_gone")]))
    saved = []
    check.save = lambda: saved.append(json.dumps(check.partial))
    listed, gpu_steps.gpu_tests = gpu_steps.gpu_tests, lambda build, limit: tests
    try:
        error = raises(Failed, lambda: check.step_tests(6))
        found = error.data["tests"]
        statuses = [found[test.name]["status"] for test in tests]
        assert statuses == ["passed", "failed", "out of time", "passed", "not built"], found
        assert "begun" in found["test_hangs"]["reason"], found
        assert "test_bad: failed 1 cases: sums" in str(error), error
        assert found["test_bad, BRENIER_SYNC_LAUNCHES=1"]["reason"].endswith("sums 1")
        assert len(saved) == 6 and "passed" in saved[0]  # what is known is kept after each of them
        slow = program(folder / "test_slow", "sleep 4; echo at last")
        tests[:] = [GpuTest("test_slow", [str(slow)]), *(tests[:1] * 5)]  # 3 s at first, then what is left
        assert check.step_tests(9)["tests"]["test_slow"]["status"] == "passed"
        tests[:] = tests[-1:]
        assert check.step_tests(6)["tests"]["test_good"]["status"] == "passed"
        program(folder / "test_good", "echo 'SKIPPED: driver too old'; exit 77")
        assert "driver too old" in str(raises(NoDevice, lambda: check.step_tests(6)))
        check.machine["gpu"] = {"name": "seen"}  # then it is not that there is none
        assert "driver too old" in str(raises(Failed, lambda: check.step_tests(6)))
    finally:
        gpu_steps.gpu_tests = listed


def check_build(main: ModuleType, folder: Path) -> None:
    """One source does not compile: the rest is built, old programs are gone, and the reason is its error."""
    build, tools = folder / "build", folder / "tools"
    (build / "tools").mkdir(parents=True)
    (build / "tests/cuda").mkdir(parents=True)
    stale = [build / "tools/brenier", build / "tests/cuda/test_old_cuda"]
    for old in stale:
        old.write_text("of an earlier commit")
    script = f"""if [ "$1" = -S ]; then
  echo CMAKE_GENERATOR:INTERNAL=Ninja > {build}/CMakeCache.txt; exit 0
fi
case "$*" in *"-- -k 0") ;; *) exit 9;; esac
mkdir -p {build}/bench; touch {build}/bench/brenier_bench_device
echo 'nvcc -Werror all-warnings -c a.cpp'; echo 'a.cpp(3): error: no such type'; echo 'ninja: stopped'
exit 1"""
    program(tools / "cmake", script)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{tools}:{path}"
    try:
        check = main.Check(options(folder))
        check.machine["commit"] = "now"
        error = raises(Failed, lambda: check.step_build(20))
        assert str(error) == "the build ended with 1: a.cpp(3): error: no such type", error
        missing = error.data["not built"]
        assert "brenier_bench_device" not in missing and "brenier_command" in missing
        assert not any(old.exists() for old in stale) and check.machine["built"] == "now"
    finally:
        os.environ["PATH"] = path
    assert "BUILT FROM before" in render({"commit": "now", "built": "before"}, [])


def check_machine(main: ModuleType, folder: Path) -> None:
    """What nvidia-smi says, and what it does not say."""
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{path}"
    try:
        program(folder / "nvidia-smi", "echo 'No devices were found'; exit 6")
        raises(NoDevice, lambda: main.Check(options(folder)).step_machine(8))
        program(folder / "nvidia-smi", "echo 'Driver/library version mismatch'; exit 18")
        raises(Failed, lambda: main.Check(options(folder)).step_machine(8))
        program(folder / "nvidia-smi", '[ "$1" = -L ] && echo "GPU 0: Some GPU (UUID: x)" || exit 2')
        assert main.Check(options(folder)).step_machine(8)["gpu"] == {"name": "Some GPU"}
        program(folder / "nvidia-smi", "echo 'Some GPU, 1, 9.0, 80 GiB, 1 MHz, 700 W'")
        assert main.Check(options(folder)).step_machine(8)["gpu"]["compute_cap"] == "9.0"
    finally:
        os.environ["PATH"] = path


def check_inner(main: ModuleType, folder: Path) -> None:
    """A gradient that is wrong or not a number fails the step, and can be shown."""
    check = main.Check(options(folder))
    line = '{"seconds_median": 1e-5, "gflops": 1, "share": 0.5, "gradient_rel_error": %s}'
    for value, right in (("1e-7", True), ("null", False), ("2e-3", False)):
        program(check.binary("bench/brenier_bench_inner"), f"echo '{line % value}'")
        if right:
            assert len(check.step_inner(60)["inner"]) == 2 * len(gpu_steps.CASES)
            continue
        error = raises(Failed, lambda: check.step_inner(60))
        assert "gradient error" in str(error)
        text = render({}, [Step("inner", "failed", 1, str(error), error.data)])
        assert ("not a number" in text) == (value == "null")
    program(check.binary("bench/brenier_bench_inner"), "echo nothing")
    assert "runs failed" in str(raises(Failed, lambda: check.step_inner(60)))


def check_sinkhorn(main: ModuleType, folder: Path) -> None:
    check = main.Check(options(folder))
    sizes = '"n": 9, "dim": 2, "schedule": 3, "iterations": 100'
    sizes += ', "seconds_median": 1e-3, "pairs_per_second": 1e9'
    for error, right in (("1e-8", True), ("null", False), ("1e-2", False)):
        program(check.binary("bench/brenier_bench_sinkhorn"), f"echo '{{{sizes}, \"error\": {error}}}'")
        if right:
            text = render({}, [Step("sinkhorn", data=check.step_sinkhorn(9))])
            assert "| 9, 2, 3, 100 | 1000.0 | 1e+09 | 1.0e-08 |" in text, text
        else:
            assert "value error" in str(raises(Failed, lambda: check.step_sinkhorn(9)))
    program(check.binary("bench/brenier_bench_sinkhorn"), "echo 'SKIPPED: none'; exit 77")
    raises(NoDevice, lambda: check.step_sinkhorn(9))


def check_steps(main: ModuleType, folder: Path) -> None:
    """No step and no report ends the others."""

    class Made(main.Check):
        def step_build(self, limit: float) -> dict:
            tests = {"t": {"status": "failed", "seconds": 1.0, "reason": "why"}}
            raise Failed("it | broke", {"tests": tests})

        def step_tests(self, limit: float) -> dict:
            raise TimeoutError

        def step_inner(self, limit: float) -> dict:
            self.note({"inner": "half of it"})
            return {}["no such key"]

        def step_judge(self, limit: float) -> dict:
            raise NoDevice("program: none")

        def step_ceilings(self, limit: float) -> dict:
            raise AttributeError("not expected")

        def step_peers(self, limit: float) -> dict:
            brenier = {"form": "brenier", "seconds_median": 1e-5, "gradient_rel_error": 1e-7}
            lines = [
                brenier,
                brenier | {"form": "slow", "seconds_median": 3e-5},
                brenier | {"form": "odd", "seconds_median": None, "gradient_rel_error": None},
                {"form": "none", "failed": "no\nkernel"},
            ]
            return {"peers": {"case": lines}}

    check = Made(options(folder))
    check.machine["gpu"] = {"name": "made up"}
    steps = main.execute(check, ["build", "tests", "ceilings", "peers"], 1)
    assert [step.status for step in steps] == ["failed", "out of time", "failed", "passed"]
    text = (folder / "gpu_check.md").read_text()
    for part in (
        "it / broke",
        "| case | slow | 30.0 | 3.00 | 1.0e-07 |",
        "| case | odd | not a number |  | not a number |",
        "| case | none | failed |",
        "| t | failed | 1.0 | why |",
        "AttributeError",
    ):
        assert part in text, (part, text)
    assert "not expected" in check.log("errors").read_text()
    # A report that cannot be made does not end the steps, and the numbers are there.
    steps = main.execute(check, ["inner", "build"], 1)
    assert [step.status for step in steps] == ["failed", "failed"] and not check.no_device
    assert "This report failed" in (folder / "gpu_check.md").read_text()
    assert json.loads((folder / "gpu_check.json").read_text())["steps"][0]["data"] == {"inner": "half of it"}
    # Failures are taken for those of a machine without a GPU only after something has said that it is one.
    steps = main.execute(check, ["ceilings", "judge", "ceilings", "build"], 1)
    assert [step.status for step in steps] == ["failed", "no device", "no device", "failed"]
    assert main.execute(check, ["build", "tests"], 0.01)[1].status == "out of time"


def self_test(main: ModuleType) -> None:
    check_parsers(main)
    for part in (check_tests, check_build, check_machine, check_inner, check_sinkhorn, check_steps):
        with tempfile.TemporaryDirectory() as folder:
            part(main, Path(folder))
    print("gpu_check: self-test passed")
