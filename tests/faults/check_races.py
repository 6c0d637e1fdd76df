#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Two processes on one run folder, and readers beside a writer: usage: check_races.py COMMAND [--pairs N] [--readers N]

N pairs each of run and run (with different seeds), run --resume beside resume, and resume beside resume, started together:
one ends well with the bits of that run alone, the other is refused with exit 2 and names the first or its folder. Where
one comes after the end of the other, both may end well. N readers (info, density, push) beside a writer: each is right or
says why not, and the writer comes to its end.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from scratch import scratch

from check_faults import CONFIG


class Races:
    def __init__(self, command: str, folder: Path) -> None:
        self.command, self.folder, self.run = command, folder, folder / "run"
        self.wrong: list[str] = []
        self.counts: dict[str, int] = {}
        self.draw = random.Random(1)
        self.configs = []
        for seed in (3, 4):
            config = folder / f"seed{seed}.toml"
            config.write_text(CONFIG.replace("seed = 3", f"seed = {seed}"))
            self.configs.append(config)
        self.alone = []
        for config in self.configs:
            self.finish(self.begin("run", str(config), "--out", str(self.run)))
            self.alone.append(self.state())
            if config is self.configs[0]:
                shutil.copytree(self.run, folder / "three")
                self.finish(self.begin("resume", str(self.run), "--steps", "5"))
                self.five = self.state()
            shutil.rmtree(self.run)

    def begin(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen([self.command, *words, "--threads", "1"], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)

    def finish(self, process: subprocess.Popen) -> tuple[int, str]:
        said = process.communicate(timeout=120)[0]
        return process.returncode, said

    def state(self) -> dict[str, bytes]:
        names = [*self.run.glob("maps/*.safetensors"), *self.run.glob("clouds/*.npy"),
                 self.run / "checkpoint.safetensors"]
        return {str(name.relative_to(self.run)): name.read_bytes() for name in names if name.exists()}

    def pair(self, kind: str, first: list[str], second: list[str], allowed: list[dict[str, bytes]]) -> None:
        one = self.begin(*first)
        time.sleep(self.draw.choice((0, 0, 0.002, 0.01, 0.03)))
        two = self.begin(*second)
        ends = [self.finish(one), self.finish(two)]
        codes = sorted(code for code, _ in ends)
        said = "; ".join(f"{code}: {text.strip()[-200:]}" for code, text in ends)
        self.counts[f"{kind}: {codes}"] = self.counts.get(f"{kind}: {codes}", 0) + 1
        if codes not in ([0, 0], [0, 2]):
            self.wrong.append(f"{kind}: ended with {codes}: {said}")
        if kind == "run and run" and codes == [0, 0]:
            self.wrong.append(f"{kind}: both ended well")
        for code, text in ends:
            if code == 2 and str(self.run) not in text:
                self.wrong.append(f"{kind}: the refusal does not name the folder: {text}")
        if self.state() not in allowed:
            self.wrong.append(f"{kind}: mixed files: {said}")
        checked = self.finish(subprocess.Popen([self.command, "info", str(self.run)], text=True, stdout=subprocess.PIPE,
                                               stderr=subprocess.STDOUT))
        if checked[0] != 0 or " 0 damaged" not in checked[1]:
            self.wrong.append(f"{kind}: {checked[1][:300]}")
        left = [name.name for name in self.run.rglob("*.tmp")]
        if left:
            self.wrong.append(f"{kind}: left over: {left}")

    def renew(self, before: Path | None) -> None:
        shutil.rmtree(self.run, ignore_errors=True)
        if before:
            shutil.copytree(before, self.run)

    def pairs(self, count: int) -> None:
        first, second = (["run", str(config), "--out", str(self.run)] for config in self.configs)
        resume = ["resume", str(self.run), "--steps", "5"]
        again = ["run", str(self.configs[0]), "--out", str(self.run), "--resume", "--set", "flow.steps=5"]
        three = self.folder / "three"
        for _ in range(count):
            self.renew(None)
            self.pair("run and run", first, second, self.alone)
        for _ in range(count):
            self.renew(three)
            self.pair("run and resume", again, resume, [self.five])
        for _ in range(count):
            self.renew(three)
            self.pair("resume and resume", resume, resume, [self.five])

    def readers(self, count: int) -> None:
        """Beside a writer that begins anew with what it has when it comes to its end."""
        points = self.folder / "points.npy"
        shutil.copy(self.folder / "three" / "clouds" / "step_000000.npy", points)
        self.renew(self.folder / "three")
        steps, asked = 13, 0
        begin = lambda: self.begin("resume", str(self.run), "--steps", str(steps))  # noqa: E731
        writer = begin()
        answers: dict[str, bytes] = {}
        while asked < count:
            if writer.poll() is not None:
                code, said = self.finish(writer)
                if code not in (0, 3):  # 3: done, with steps that are not solved
                    self.wrong.append(f"writer: ended with {code}: {said[-300:]}")
                    return
                steps += 10
                writer = begin()
            command = ("info", "density", "push")[asked % 3]
            out = self.folder / "out.npy"
            out.unlink(missing_ok=True)
            words = {"info": ["info", str(self.run)],
                     "density": ["density", str(self.run), str(points), "--step", "2", "-o", str(out)],
                     "push": ["push", str(self.run), str(points), "--step", "2", "-o", str(out)]}[command]
            done = subprocess.run([self.command, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            asked += 1
            key = f"reader {command}: {done.returncode}"
            self.counts[key] = self.counts.get(key, 0) + 1
            if done.returncode != 0 or "DAMAGED" in done.stdout:
                self.wrong.append(f"{key}: {done.stdout[:300]}")
            elif command != "info" and answers.setdefault(command, out.read_bytes()) != out.read_bytes():
                self.wrong.append(f"{key}: other numbers")
        code, said = self.finish(writer)
        if code not in (0, 3):
            self.wrong.append(f"writer: ended with {code}: {said[-300:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--readers", type=int, default=500)
    arguments = parser.parse_args()
    with scratch("brenier-races-") as folder:
        races = Races(arguments.command, Path(folder).resolve())
        races.pairs(arguments.pairs)
        if arguments.readers:
            races.readers(arguments.readers)
        for key, number in sorted(races.counts.items()):
            print(f"{number:6d} {key}")
        for one in races.wrong:
            print(one)
        print(f"{len(races.wrong)} wrong")
        return 1 if races.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
