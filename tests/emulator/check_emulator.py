#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Requires that every planted bug is reported by the builds that must report it, in the words expected of them.

usage: check_emulator.py --plain EXE --thread EXE --address EXE   (planted_bugs, without and with sanitizers)
       check_emulator.py [--timeout SECONDS] --sound EXE [ARGUMENT...]   (correct kernels: no report, exit code 0)
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

SKIP = 77
TIMEOUT = 60.0  # seconds; a case takes a fraction of one
LONGEST = 4000  # characters of a build's output that are shown

# What a build must say of a case. None: this build is blind to it, and must be silent.
PLANTED: dict[str, dict[str, str | None]] = {}


def planted(name: str, plain: str | None, thread: str | None = "", address: str | None = "") -> None:
    """A case; "" stands for what the plain build says."""
    words = {"plain": plain, "thread": thread, "address": address}
    PLANTED[name] = {build: plain if text == "" else text for build, text in words.items()}


def race(kernel: str) -> str:
    return rf"SUMMARY: ThreadSanitizer: data race .*planted_bugs\.cpp:\d+ in {kernel}"


def poisoned(kernel: str) -> str:
    return rf"SUMMARY: AddressSanitizer: use-after-poison .*planted_bugs\.cpp:\d+ in {kernel}"


KERNEL = r'reported: kernel "planted" \(grid \d+, block 64, shared \d+ bytes\): '
STUCK = KERNEL + r"block 0: deadlock by divergence: thread 0 waits at "
CAPTURE = r"during the capture of a graph"

planted("missing_barrier", r"reported: not finite: .* 1\.0+ reverse", thread=race("missing_barrier"))
planted("write_after_read", r"reported: order dependent", thread=race("write_after_read"))
planted("ordered_by_shuffle", None, thread=race("ordered_by_shuffle"), address=None)
planted("shared_overflow", KERNEL + r"block 0: a write outside the shared memory of 256 bytes, at byte 256",
        address=poisoned("shared_overflow"))
planted("array_overflow", KERNEL + r"block 0, thread 63: index 64 of an Array of 64")
planted("storage_too_small", KERNEL + r".*planted_bugs\.cpp:\d+ asks for bytes 0 to 512 .* launched with 256")
planted("uninitialised_shared", r"reported: not finite: .*nan forward, .*nan reverse")
planted("uninitialised_buffer", r"reported: not finite: .*nan forward, .*nan reverse")
planted("global_overflow", KERNEL + r"a write outside a device buffer of 256 bytes, at byte 256",
        address=poisoned("global_overflow"))
planted("global_overread", r"reported: not finite: element 63", address=poisoned("global_overread"))
planted("misaligned", KERNEL + r".*misaligned access at .*planted_bugs\.cpp:\d+: .* multiple of 8 bytes")
planted("divergent_barrier", STUCK + r"sync_block .*planted_bugs\.cpp:\d+, thread 32 waits at .*planted_bugs\.cpp:\d+")
planted("early_return", STUCK + r"sync_block .*planted_bugs\.cpp:\d+, thread 57 has returned")
planted("divergent_shuffle", STUCK + r"the warp operation .*, thread 16 waits at sync_block")
planted("block_race", r"reported: order dependent", thread=race("block_race"))
planted("too_much_shared", KERNEL + r"the device has 232448 bytes")
planted("host_dereference", r"reported: the host touched device memory")
planted("host_access", r"reported: device code was called on the host")
planted("use_after_free", KERNEL + r"a write outside a released device buffer", address=poisoned("number"))
planted("out_of_memory", r"reported: out of device memory: 800 bytes requested for a buffer, 600 of 1000 bytes free")
planted("wait_in_capture", r"reported: Stream::synchronise " + CAPTURE)
planted("release_in_capture", r"reported: Graph::capture: the work waited, allocated, released or copied")
planted("missing_wait", r"reported: not waited for: element 0 is 0\.0+ at once, -?nan late")
planted("reused_staging", r"reported: not waited for: element 0 is 1\.0+ at once, 2\.0+ late")
planted("lowered_limit", KERNEL + r"its limit of shared memory has been set to 60000 bytes")
planted("large_arguments", KERNEL + r"4108 bytes of arguments; more than 4096")
planted("copy_too_far", r"reported: copy_to_host: 256 bytes do not lie inside one device buffer")


def run(executable: Path, *arguments: str, timeout: float = TIMEOUT) -> tuple[int, str]:
    """Exit code and output. TSan does not start under some settings of address space randomisation."""
    command = [str(executable), *arguments]
    for prefix in ([], ["setarch", "-R"]):
        done = subprocess.run([*prefix, *command], capture_output=True, text=True, errors="replace", timeout=timeout)
        output = done.stdout + done.stderr
        if "ThreadSanitizer: unexpected memory mapping" not in output:
            return done.returncode, output
    print(f"SKIPPED: {executable.name} does not start with this system's address space randomisation")
    sys.exit(SKIP)


def check_case(build: str, executable: Path, name: str) -> str | None:
    """What is wrong with a build's answer to a case, if anything is."""
    expected = PLANTED[name][build]
    code, output = run(executable, name)
    if expected is None:
        silent = code == 0 and "nothing noticed" in output and "SUMMARY" not in output
        return None if silent else f"{build}: {name}: should go unnoticed, ended with {code}:\n{output[:LONGEST]}"
    if code != 0 and re.search(expected, output):
        return None
    return f"{build}: {name}: exit code {code}, expected {expected!r} in\n{output[:LONGEST]}"


def check_planted(builds: dict[str, Path]) -> list[str]:
    wrong = []
    for build, executable in builds.items():
        listed = run(executable)[1].split()
        if sorted(listed) != sorted(PLANTED):
            wrong.append(f"{build}: cases differ from this script's: {sorted(set(listed) ^ set(PLANTED))}")
            continue
        wrong += [message for name in PLANTED if (message := check_case(build, executable, name))]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for build in ("plain", "thread", "address"):
        parser.add_argument(f"--{build}", type=Path, metavar="EXE")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help="of --sound")
    parser.add_argument("--sound", nargs="+", metavar="WORD", help="correct kernels: the executable and its arguments")
    args = parser.parse_args()
    if args.sound:
        code, output = run(Path(args.sound[0]), *args.sound[1:], timeout=args.timeout)
        print(output)
        sys.exit(1 if code or "SUMMARY: " in output else 0)
    builds = {build: getattr(args, build) for build in ("plain", "thread", "address") if getattr(args, build)}
    wrong = check_planted(builds)
    print("\n".join(wrong) or f"{len(PLANTED)} planted bugs in {len(builds)} builds: as expected")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
