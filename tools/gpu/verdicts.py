# SPDX-License-Identifier: MIT
"""What the output of tests and of compute-sanitizer says."""

from __future__ import annotations

import re

from gpu.process import SKIPPED, Result


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
    """Status (passed, failed, no device, out of time) and the reason."""
    ended, wrong = doctest_cases(result.text)
    if result.status is None:
        return "out of time", f"last case that ended: {ended[-1]}" if ended else "no case ended"
    if result.status == 0:
        return "passed", ""
    if result.status == SKIPPED:
        return "no device", result.last()
    if wrong:
        return "failed", f"{len(wrong)} cases: {wrong[0]}"
    after = f", after {ended[-1]}" if ended else ""
    return "failed", f"status {result.status}{after}: {result.last()}"


def case_at_fault(result: Result, cases: list[str]) -> str:
    """The first case that failed, or in which the program ended or hung; empty where that is not known."""
    ended, wrong = doctest_cases(result.text)
    if wrong:
        return wrong[0]
    return next((case for case in cases if case not in ended), "")


def case_filter(case: str) -> str:
    """doctest's option for one case. A comma would end the pattern."""
    return "--test-case=" + re.sub(r"[,*\\]", "?", case)


def sanitizer_verdict(result: Result) -> str:
    """'clean', or what is wrong. Only a summary of no errors after a test that passed is clean."""
    if result.status is None:
        return "out of time"
    if result.status == SKIPPED:
        return f"no device: {result.last()}"
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", result.text)
    zero = summary and re.search(r"SUMMARY: 0 (?:errors|hazards)", summary[-1])
    passed = re.search(r"\[doctest\] Status: SUCCESS!", result.text)
    if result.status == 0 and zero and passed:
        return "clean"
    return summary[-1] if summary and not zero else f"status {result.status}: {result.last()}"


PROFILED = (  # of ncu's details, what tells most
    "Duration",
    "Compute (SM) Throughput",
    "Memory Throughput",
    "Registers Per Thread",
    "Dynamic Shared Memory Per Block",
    "Theoretical Occupancy",
    "Achieved Occupancy",
    "Executed Ipc Active",
    "No Eligible",
)


def profile_metrics(text: str) -> dict[str, str]:
    """Some metrics of ncu's page of details: name -> value with its unit."""
    found = {}
    for line in text.splitlines():
        for name in PROFILED:
            if match := re.match(rf"\s+{re.escape(name)}\s+(.*?)\s+([-\d.,]+)\s*$", line):
                found.setdefault(name, f"{match[2]} {match[1]}".strip())
    return found
