#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Lets calls of the system fail, one in each run: usage: check_faults.py COMMAND INJECTOR [--every K]

A small run, and one that is resumed, have each kind of call (write, fsync, rename, open, mkdir, close, read, link) fail at
every K-th call (1: at all of them). After each fault the command has ended by itself, no file under its final name is
damaged, and going on without a fault ends with the bits of a run that met none.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KINDS = {"write": errno.ENOSPC, "fsync": errno.EIO, "rename": errno.EACCES, "open": errno.EMFILE,
         "mkdir": errno.ENOSPC, "close": errno.EIO, "read": errno.EIO, "link": errno.EACCES}

CONFIG = """seed = 3
precision = "double"
[cloud]
density = "barenblatt"
time = 1e-3
particles = 37
[[functional]]
term = "porous_medium"
m = 2
[flow]
tau = 1e-3
steps = 3
[network]
hidden = [4]
[inner]
iterations = 5
[held_out]
particles = 50
[output]
every = 2
checkpoint_every = 1
"""


class Faults:
    def __init__(self, command: str, injector: str, folder: Path) -> None:
        self.command, self.injector, self.folder = command, injector, folder
        self.config = folder / "small.toml"
        self.config.write_text(CONFIG)
        self.tried = 0
        self.wrong: list[str] = []

    def call(self, words: list[str], fault: str = "", root: Path | None = None) -> tuple[int, int, str]:
        """Exit code, number of calls of the fault's kind, what was printed."""
        environment = dict(os.environ)
        count = self.folder / "count"
        if fault:
            environment |= {"LD_PRELOAD": self.injector, "BRENIER_FAULT": fault, "BRENIER_FAULT_ROOT": str(root),
                            "BRENIER_FAULT_COUNT": str(count)}
        done = subprocess.run([self.command, *words, "--threads", "1"], env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        return done.returncode, int(count.read_text()) if fault and count.exists() else 0, done.stdout

    def state(self, run: Path) -> dict[str, bytes]:
        """What must agree to the bit."""
        names = [*run.glob("maps/*.safetensors"), *run.glob("clouds/*.npy"), run / "checkpoint.safetensors"]
        return {str(name.relative_to(run)): name.read_bytes() for name in names}

    def check(self, words: list[str], run: Path, prepare: Path | None, expected: dict[str, bytes], every: int) -> None:
        for kind, code in KINDS.items():
            calls, k = 1, 1
            while k <= calls:
                shutil.rmtree(run, ignore_errors=True)
                if prepare:
                    shutil.copytree(prepare, run)
                fault = f"{kind}:{k}:{code}"
                code_now, calls, said = self.call(words, fault, run)
                self.tried += 1
                where = f"{words[0]} with {fault}"
                if code_now not in (0, 1, 2):
                    self.wrong.append(f"{where}: ended with {code_now}: {said[-300:]}")
                if code_now == 0 and kind in ("write", "rename", "mkdir") and k <= calls:
                    self.wrong.append(f"{where}: nothing was said")
                checked = subprocess.run([self.command, "info", str(run)], text=True, capture_output=True)
                if checked.returncode == 0 and " 0 damaged" not in checked.stdout:
                    self.wrong.append(f"{where}: {checked.stdout[:400]}")
                again, _, said = self.call(["run", str(self.config), "--out", str(run), "--resume", *words[4:]])
                if again != 0:
                    self.wrong.append(f"{where}: cannot go on: {said[-300:]}")
                elif self.state(run) != expected:
                    self.wrong.append(f"{where}: other bits")
                k += every


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command")
    parser.add_argument("injector")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brenier-faults-") as name:
        folder = Path(name).resolve()
        faults = Faults(arguments.command, arguments.injector, folder)
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
        faults.check(start, run, None, three, arguments.every)
        faults.check([*longer[:2], "--set", "output.every=2", "--set", "flow.steps=5"], run, folder / "three", five,
                     arguments.every)
        for one in faults.wrong:
            print(one)
        print(f"{faults.tried} faults, {len(faults.wrong)} of them not survived")
        return 1 if faults.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
