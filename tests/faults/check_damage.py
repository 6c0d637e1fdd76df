#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Damages the files of a run folder, one place at a time: usage: check_damage.py COMMAND [--flips N] [--truncations N]
[--seed S]

N random bits and N random lengths, spread over all files of the folder in turn. Of each damaged folder it is asked whether
`info` names the file, and whether `resume`, `density` and `push` either say something of it or end with the numbers of a
folder that is whole. A difference of which nothing was said is a failure. Measured numbers for the bench results: by hand
with 1,000 and 500; a few in the tests.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
from pathlib import Path

from scratch import scratch

from check_faults import CONFIG


class Damage:
    def __init__(self, command: str, folder: Path) -> None:
        self.command, self.folder = command, folder
        self.whole, self.run = folder / "whole", folder / "run"
        self.out = folder / "out.npy"
        config = folder / "small.toml"
        config.write_text(CONFIG)
        self.ask("run", str(config), "--out", str(self.whole))
        shutil.copy(self.whole / "clouds" / "step_000000.npy", folder / "points.npy")
        self.wrong: list[str] = []
        self.named = self.harmless = self.refused = self.settings = 0
        self.expected = self.answers(self.whole)

    def ask(self, *words: str) -> tuple[int, str]:
        done = subprocess.run([self.command, *words], text=True, errors="replace", stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=120)
        return done.returncode, done.stdout

    def answers(self, whole: Path) -> dict[str, tuple[int, str, dict[str, bytes]]]:
        """What the folder gives: for each command its exit code, what it says, and the files it ends with."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(whole, self.run)
        out: dict[str, tuple[int, str, dict[str, bytes]]] = {}
        out["info"] = (*self.ask("info", str(self.run)), {})
        for command in ("density", "push"):
            self.out.unlink(missing_ok=True)
            code, said = self.ask(command, str(self.run), str(self.folder / "points.npy"), "-o", str(self.out),
                                  "--threads", "1")
            out[command] = (code, said, {"out": self.out.read_bytes()} if self.out.exists() else {})
        code, said = self.ask("resume", str(self.run), "--steps", "4", "--threads", "1")
        names = [*self.run.glob("maps/*.safetensors"), *self.run.glob("clouds/step_000004.npy"),
                 self.run / "checkpoint.safetensors"]
        files = {str(n.relative_to(self.run)): n.read_bytes() for n in names if n.exists()}
        # Columns of the history but its times of day.
        history = (self.run / "history.csv").read_text(errors="replace").splitlines() if code == 0 else []
        if history:
            keep = [i for i, column in enumerate(history[0].split(",")) if "seconds" not in column]
            cells = [row.split(",") for row in history]
            files["history"] = "\n".join(",".join(row[i] for i in keep if i < len(row)) for row in cells).encode()
        out["resume"] = (code, said, files)
        return out

    def check(self, name: str, what: str, damaged: bytes) -> None:
        copy = self.folder / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.whole, copy)
        (copy / name).write_bytes(damaged)
        found = self.answers(copy)
        base = Path(name).name
        # A flip in the name of a checksum leaves a file without one, and with the right numbers.
        named = base in found["info"][1] and (found["info"][0] != 0 or "DAMAGED" in found["info"][1] or
                                              "no checksum" in found["info"][1])
        self.named += named
        if not named:
            self.wrong.append(f"{name}, {what}: info does not name it: {found['info'][1][:300]}")
        for command in ("density", "push", "resume"):
            code, said, files = found[command]
            if code not in (0, 1, 2, 3):
                self.wrong.append(f"{name}, {what}: {command} ended with {code}: {said[-300:]}")
            elif code == self.expected[command][0] and files == self.expected[command][2]:
                self.harmless += 1
            elif code not in (0, 3) and base in said:
                self.refused += 1
            elif code == 2 and "other settings" in said and str(self.run) in said:
                self.settings += 1  # a changed bit of config.toml that is valid TOML: folder and key are named
            elif base not in said:
                self.wrong.append(f"{name}, {what}: {command} ended with {code} and other numbers, and does not name "
                                  f"the file: {said[-300:]}")
            else:
                self.refused += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command")
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--truncations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with scratch("brenier-damage-") as folder:
        damage = Damage(arguments.command, Path(folder).resolve())
        files = [file for file in damage.whole.rglob("*") if file.is_file() and file.stat().st_size > 0]
        names = sorted(str(file.relative_to(damage.whole)) for file in files)
        draw.shuffle(names)
        for k in range(arguments.flips):
            name = names[k % len(names)]
            content = bytearray((damage.whole / name).read_bytes())
            bit = draw.randrange(8 * len(content))
            content[bit // 8] ^= 1 << (bit % 8)
            damage.check(name, f"bit {bit}", bytes(content))
        for k in range(arguments.truncations):
            name = names[k % len(names)]
            content = (damage.whole / name).read_bytes()
            length = draw.randrange(len(content))
            damage.check(name, f"{length} of {len(content)} bytes", content[:length])
        for one in damage.wrong:
            print(one)
        tried = arguments.flips + arguments.truncations
        print(f"{tried} damaged folders over {len(names)} files: {damage.named} named by info; of {3 * tried} commands "
              f"{damage.refused} name the file, {damage.settings} the changed key, {damage.harmless} have the right "
              f"numbers; {len(damage.wrong)} wrong")
        return 1 if damage.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
