#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a step costs more through Python than through C++, on the default flow (README): one JSON line.

    PYTHONPATH=build/tools/python bench/python/overhead.py [--command build/tools/brenier]

Both are measured at once: `seconds` of a step's report is the wall time inside the library's step(), and the rest of the call,
with a copy of the particles, is what Python adds. With --command the same flow runs as a program of C++ alone, in turn: its
particles must be the same to the bit, and the quickest and the median of its steps stand beside those here, whose library runs
inside the interpreter.
"""
import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import brenier
import numpy as np


def flow(threads: int) -> brenier.Flow:
    return brenier.Flow(brenier.porous_medium(2), brenier.Density.barenblatt(1, 1e-3), tau=1e-3, order=2, particles=1000, seed=1,
                        threads=threads)


def by_python(steps: int, threads: int) -> tuple[list[float], list[float], np.ndarray]:
    """Seconds of each step inside the library, and of what the caller waits for more."""
    one, inside, more = flow(threads), [], []
    for _ in range(steps):
        begin = time.perf_counter()
        report = one.step()
        x = one.x
        wall = time.perf_counter() - begin
        assert report is not None and len(x) == 1000
        inside.append(report["seconds"])
        more.append(wall - report["seconds"])
    return inside, more, one.x


def by_command(command: str, steps: int, threads: int) -> tuple[list[float], np.ndarray]:
    """Seconds of each step as history.csv has them."""
    root = pathlib.Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        subprocess.run([command, "run", root / "bench/paper/porous_medium.toml", "--out", out, "--threads", str(threads), "--set",
                        "flow.order=2", "--set", f"flow.steps={steps}", "--set", "held_out.particles=0"], check=True,
                       capture_output=True)
        with open(out / "history.csv", newline="") as file:
            seconds = [float(row["seconds"]) for row in list(csv.DictReader(file))[1:]]
        return seconds, np.load(out / "clouds" / f"step_{steps:06d}.npy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--command", help="build/tools/brenier")
    options = parser.parse_args()
    inside, more, command, bits = [], [], [], None
    for _ in range(options.rounds):
        of_round = by_python(options.steps, options.threads)
        inside += of_round[0]
        more += of_round[1]
        if options.command:
            seconds, x = by_command(options.command, options.steps, options.threads)
            command += seconds
            bits = bool(np.array_equal(x, of_round[2])) and bits is not False
    result = {"steps": len(inside), "threads": options.threads, "step_seconds": statistics.median(inside),
              "python_seconds": statistics.median(more), "overhead": statistics.median(more) / statistics.median(inside)}
    if options.command:
        result |= {"quickest_step_seconds": min(inside), "command_step_seconds": statistics.median(command),
                   "command_quickest_step_seconds": min(command), "same_bits": bits}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
