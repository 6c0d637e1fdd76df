#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Lets calls of the system fail, one in each run.

usage: check_faults.py COMMAND INJECTOR [--every K] [--first K] [--allocations N] [--only run,resume,push,pull,density,sample,fit]
                       [--kinds write,alloc,...]

A small run, and one that is resumed, have each kind of call (write, fsync, rename, open, mkdir, close, read, link) fail at
every K-th call (1: at all of them) from number --first on, and N allocations, evenly spaced (0: each one). After each fault
the command has ended by itself, no file under its final name is damaged, and going on without a fault ends with the bits of a run that met none.
push, pull, density, sample and fit of that run likewise: what they leave under the name of their output is whole, or not
there, and the next try has the bits of one that met no fault.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from scratch import scratch

KINDS = {"write": errno.ENOSPC, "fsync": errno.EIO, "rename": errno.EACCES, "open": errno.EMFILE,
         "mkdir": errno.ENOSPC, "close": errno.EIO, "read": errno.EIO, "link": errno.EACCES,
         "alloc": errno.ENOMEM}

CONFIG = Path(__file__).with_name("tiny.toml").read_text()
FIT = ["--hidden", "4", "--epochs", "2", "--batch", "16", "--quiet"]


class Faults:
    def __init__(self, command: str, injector: str, folder: Path, every: int, allocations: int,
                 kinds: list[str], first: int) -> None:
        self.command, self.injector, self.folder = command, injector, folder
        self.every, self.allocations, self.kinds, self.first = every, allocations, kinds, first
        self.config = folder / "small.toml"
        self.config.write_text(CONFIG)
        self.tried: dict[str, int] = {}
        self.wrong: list[str] = []

    def call(self, words: list[str], fault: str = "", root: Path | None = None) -> tuple[int, int, str]:
        """Exit code, number of calls of the fault's kind, what was printed."""
        environment = dict(os.environ)
        count = self.folder.parent / (self.folder.name + "-count")
        count.unlink(missing_ok=True)
        if fault:
            environment |= {"LD_PRELOAD": self.injector, "BRENIER_FAULT": fault, "BRENIER_FAULT_ROOT": str(root),
                            "BRENIER_FAULT_COUNT": str(count)}
        done = subprocess.run([self.command, *words, "--threads", "1"], env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        return done.returncode, int(count.read_text()) if fault and count.exists() else 0, done.stdout

    def faults(self, words: list[str], root: Path, prepare):
        """Calls the command with one fault after the other, each time after prepare(); gives where it was, and with what
        the command ended."""
        for kind in self.kinds:
            code = KINDS[kind]
            prepare()
            calls = self.call(words, f"{kind}:{2**60}:{code}", root)[1]
            step = self.every
            if kind == "alloc":
                step = max(1, calls // self.allocations) if self.allocations else 1
            for k in range(self.first, calls + 1, step):
                prepare()
                fault = f"{kind}:{k}:{code}"
                ended, _, said = self.call(words, fault, root)
                self.tried[kind] = self.tried.get(kind, 0) + 1
                where = f"{words[0]} with {fault}"
                if ended not in (0, 1, 2, 74, 75):
                    self.wrong.append(f"{where}: ended with {ended}: {said[-300:]}")
                if ended == 0 and kind in ("write", "rename", "mkdir"):
                    self.wrong.append(f"{where}: nothing was said")
                if ended != 0 and not said.strip():
                    self.wrong.append(f"{where}: ended with {ended} and said nothing")
                yield where, ended

    def state(self, run: Path) -> dict[str, bytes]:
        """What must agree to the bit."""
        names = [*run.glob("maps/*.safetensors"), *run.glob("clouds/*.npy"), run / "checkpoint.safetensors"]
        return {str(name.relative_to(run)): name.read_bytes() for name in names}

    def check_run(self, words: list[str], run: Path, before: Path | None, expected: dict[str, bytes]) -> None:
        def prepare() -> None:
            shutil.rmtree(run, ignore_errors=True)
            if before:
                shutil.copytree(before, run)

        seen: set[tuple] = set()
        for where, _ in self.faults(words, run, prepare):
            left = left_in(run)
            if left in seen:  # but for times of day the folder of an earlier fault, from which it went on
                continue
            seen.add(left)
            checked = subprocess.run([self.command, "info", str(run)], text=True, capture_output=True)
            if checked.returncode == 0 and " 0 damaged" not in checked.stdout:
                self.wrong.append(f"{where}: {checked.stdout[:400]}")
            again, _, said = self.call(["run", str(self.config), "--out", str(run), "--resume", *words[4:]])
            if again != 0:
                self.wrong.append(f"{where}: cannot go on: {said[-300:]}")
            elif self.state(run) != expected:
                self.wrong.append(f"{where}: other bits")

    def check_output(self, words: list[str], outputs: list[Path]) -> None:
        """Of a command that writes `outputs` and changes nothing else below their folder."""
        root = outputs[0].parent

        def files() -> dict[str, bytes]:
            """Contents by name; times of day, which a .json of fit holds, left out."""
            return {str(name): re.sub(rb'"[a-z_]*seconds[a-z_]*":[^,}]*', b"", name.read_bytes())
                    for name in root.rglob("*") if name.is_file()}

        def prepare() -> None:
            for output in outputs:
                output.unlink(missing_ok=True)

        prepare()
        before = files()
        code, _, said = self.call(words)
        if code != 0:
            self.wrong.append(f"{words[0]} fails without a fault: {said}")
            return
        after = files()
        if set(after) - set(before) != {str(output) for output in outputs}:
            self.wrong.append(f"{words[0]} leaves {sorted(set(after) - set(before))}")
        for where, ended in self.faults(words, root, prepare):
            for name, content in files().items():
                if content != after.get(name):
                    self.wrong.append(f"{where}: {name} is not whole, or left over")
            if ended == 0 and not all(output.exists() for output in outputs):
                self.wrong.append(f"{where}: no output, and nothing was said")
        self.call(words)
        if files() != after:
            self.wrong.append(f"{words[0]}: other bits after the faults")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command")
    parser.add_argument("injector")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--allocations", type=int, default=0)
    parser.add_argument("--only", default="run,resume,push,pull,density,sample,fit")
    parser.add_argument("--kinds", default=",".join(KINDS))
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    with scratch("brenier-faults-") as name:
        folder = Path(name).resolve() / "files"
        folder.mkdir()
        faults = Faults(arguments.command, arguments.injector, folder, arguments.every, arguments.allocations,
                        arguments.kinds.split(","), arguments.first)
        config, run = str(faults.config), folder / "run"
        start = ["run", config, "--out", str(run)]
        code, _, said = faults.call(start)
        if code != 0:
            print(said)
            return 1
        three = faults.state(run)
        shutil.copytree(run, folder / "three")
        longer = ["resume", str(run), "--steps", "5"]
        code, _, said = faults.call(longer)
        if code != 0:
            print(said)
            return 1
        five = faults.state(run)
        if "run" in only:
            faults.check_run(start, run, None, three)
        if "resume" in only:
            to_five = ["--set", "output.every=2", "--set", "flow.steps=5"]
            faults.check_run([*longer[:2], *to_five], run, folder / "three", five)
        shutil.rmtree(run)
        points, labels = points_and_labels(folder)
        of_run = [str(folder / "three"), str(points), "-o"]
        out, more = folder / "out.npy", folder / "more.npy"
        commands = {
            "push": ([*of_run, str(out)], [out]),
            "pull": ([*of_run, str(out)], [out]),
            "density": ([*of_run, str(out)], [out]),
            "sample": ([str(folder / "three"), "9", "-o", str(out), "--log-density", str(more)], [out, more]),
            "fit": ([str(points), str(labels), "-o", str(folder / "net.safetensors"), *FIT],
                    [folder / "net.safetensors", folder / "net.json"]),
        }
        for command, (words, outputs) in commands.items():
            if command in only:
                faults.check_output([command, *words], outputs)
        for one in faults.wrong:
            print(one)
        print(f"{sum(faults.tried.values())} faults {faults.tried}, {len(faults.wrong)} of them not survived")
        return 1 if faults.wrong else 0


def left_in(run: Path) -> tuple:
    """What a fault has left of a run: names and contents, of files with times of day the number of lines, of temporary files
    the name without that of the process."""
    left = []
    for file in sorted(run.rglob("*")):
        name = re.sub(r"\d+(?=[^/]*\.tmp$)", "", str(file.relative_to(run)))
        content = file.read_bytes() if file.is_file() else b""
        timed = file.name in ("history.csv", "summary.json", "manifest.json")
        left.append((name, content.count(b"\n") if timed else content))
    return tuple(left)


def points_and_labels(folder: Path) -> tuple[Path, Path]:
    """A cloud of the run, and labels for it."""
    points, labels = folder / "points.npy", folder / "labels.npy"
    shutil.copy(folder / "three" / "clouds" / "step_000000.npy", points)
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (37,), }"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    values = b"".join(struct.pack("<d", i % 2) for i in range(37))
    labels.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + values)
    return points, labels


if __name__ == "__main__":
    sys.exit(main())
