#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares compilers: values and gradients of random expressions.

    check_compilers.py [--expressions N] [--seed S] COMMAND COMMAND...    each one compiler with its options, as one word:
                                                                          "g++ -O2" "clang++-14 -O2" "clang++-14 -O3"

The expressions and their derivatives are compiled with each of them and evaluated at three points. Two numbers agree where
they differ by no more than 64 times what the number changes when its point is moved by a few roundings, and 1e-13 of its size.
"""

from __future__ import annotations

import argparse
import math
import random
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*sorted((ROOT / "autodiff").rglob("*.cpp")), ROOT / "kernels/base/nearest_name.cpp",
           ROOT / "kernels/ref/cloud/program.cpp", ROOT / "tests/checks/gradients.cpp"]
FOLDERS = [ROOT, *(ROOT / room / "include" for room in ("kernels", "autodiff", "solvers", "engine"))]
UNARY = ("exp", "log", "sqrt", "abs", "sin", "cos", "tanh", "softplus", "sigmoid", "-")


class Draw:
    """Random expressions: scalars and vectors of three elements."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def number(self) -> str:
        return self.random.choice(["1", "2", "0.5", "3", "1e-3", "7.25", "0", "pi", "a", "1e3"])

    def scalar(self, depth: int, kind: str) -> str:
        pick = self.random.random()
        if depth == 0 or pick < 0.1:
            leaves = {"V": ["x[0]", "x[1]", "x[2]", "r"], "W": ["r", "x[0]", "r"], "f": ["t"]}[kind]
            return self.random.choice(leaves) if self.random.random() < 0.7 else self.number()
        one = self.scalar(depth - 1, kind)
        if pick < 0.35:
            name = self.random.choice(UNARY)
            return f"-({one})" if name == "-" else f"{name}({one})"
        if pick < 0.65 or (kind == "f" and pick < 0.85):
            return f"({one}){self.random.choice('+-*/')}({self.scalar(depth - 1, kind)})"
        if pick < 0.78 or kind == "f":
            return f"({one})^({self.random.choice(['2', '3', '0.5', '-1', '4', '1.5', self.scalar(depth - 1, kind)])})"
        if pick < 0.84:
            return f"{self.random.choice(['min', 'max'])}({one}, {self.scalar(depth - 1, kind)})"
        name = self.random.choice(["sum", "norm", "logsumexp", "dot", "max", "min"])
        if name == "dot":
            return f"dot({self.vector(depth - 1, kind)}, {self.vector(depth - 1, kind)})"
        return f"{name}({self.vector(depth - 1, kind)})"

    def vector(self, depth: int, kind: str) -> str:
        pick = self.random.random()
        if depth <= 0 or pick < 0.25:
            return self.random.choice(["x", "x", "b", "A*x"])
        if pick < 0.5:
            name = self.random.choice(UNARY)
            one = self.vector(depth - 1, kind)
            return f"-({one})" if name == "-" else f"{name}({one})"
        if pick < 0.65:
            return f"[{', '.join(self.scalar(depth - 1, kind) for _ in range(3))}]"
        if pick < 0.8:
            return f"({self.vector(depth - 1, kind)})^{self.random.choice(['2', '3', '0.5'])}"
        return f"({self.vector(depth - 1, kind)}){self.random.choice('+-*/')}({self.scalar(depth - 1, kind)})"

    def line(self) -> str:
        kind = self.random.choice("VVVWf")
        return f"{kind} {1 if kind == 'f' else 3} {self.scalar(self.random.randint(1, 5), kind)}"


def built(command: str, folder: Path) -> Path:
    words = shlex.split(command)
    objects = []
    for source in SOURCES:
        objects.append(folder / f"{source.stem}-{len(objects)}.o")
        subprocess.run([*words, "-std=c++20", "-DBRENIER_EXPORTS_NOTHING", *(f"-I{one}" for one in FOLDERS), "-c", str(source), "-o",
                        str(objects[-1])], check=True)
    program = folder / "gradients"
    subprocess.run([*words, *map(str, objects), "-o", str(program)], check=True)
    return program


def same(a: float, b: float, change: float) -> bool:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return True
    if not math.isfinite(a) or not math.isfinite(b):
        return math.isnan(change) or math.isinf(change)  # within a rounding of where it ends to be finite
    return math.isnan(change) or abs(a - b) <= 64 * abs(change) + 1e-13 * max(abs(a), abs(b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+")
    parser.add_argument("--expressions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw, lines = Draw(arguments.seed), []
    first: list[str] = []
    failed = 0
    for number, command in enumerate(arguments.commands):
        with tempfile.TemporaryDirectory() as folder:
            program = built(command, Path(folder))
            if number == 0:
                # As many as are accepted, and what is refused among them.
                accepted = 0
                while accepted < arguments.expressions:
                    more = [draw.line() for _ in range(1000)]
                    said = subprocess.run([program], input="\n".join(more) + "\n", text=True, capture_output=True,
                                          check=True).stdout.splitlines()
                    assert len(said) == len(more), f"{command}: {len(said)} answers to {len(more)} expressions"
                    lines += more
                    first += said
                    accepted += sum(answer != "refused" for answer in said)
                print(f"{command}: {accepted} expressions, and {len(lines) - accepted} refused")
                continue
            answers = subprocess.run([program], input="\n".join(lines) + "\n", text=True, capture_output=True,
                                     check=True).stdout.splitlines()
        assert len(answers) == len(lines), f"{command}: {len(answers)} answers to {len(lines)} expressions"
        identical = numbers = finite = 0
        for line, one, other in zip(lines, first, answers):
            if "refused" in (one, other):
                if one != other:
                    failed += 1
                    print(f"{line}: {one} and {other}")
                continue
            a, b = ([float.fromhex(word) for word in words.split()] for words in (one, other))
            half = len(a) // 6
            for start in range(0, len(a), 2 * half):
                for k in range(half):
                    here, there = start + k, start + half + k
                    numbers += 1
                    finite += math.isfinite(a[here])
                    identical += a[here] == b[here] or (math.isnan(a[here]) and math.isnan(b[here]))
                    if not same(a[here], b[here], a[there] - a[here]):
                        failed += 1
                        print(f"{line}: {a[here]!r} and {b[here]!r}, of a moved point {a[there]!r}")
        print(f"{command}: {numbers} numbers, {finite} of them finite; {identical} with the same bits; {failed} differ in all")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
