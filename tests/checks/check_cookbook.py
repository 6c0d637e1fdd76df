#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The configurations of the cookbook: usage: check_cookbook.py COMMAND FOLDER

Each is valid as it stands; each runs two steps, smaller than it is written, and lowers F; what they say of known solutions
holds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SMALL = ["--set", "inner.iterations=60", "--set", "inner.accept=1"]
# What makes a run short, and what its summary must say.
FLOWS = {
    "mixture": (["cloud.particles=200", "held_out.particles=500"], lambda s: s["infimum"]["functional"] == 0),
    "ring": (["cloud.particles=150", "inner.minibatch=0", "held_out.particles=200"], None),
    "own_data": (["cloud.particles=150", "held_out.particles=300"], lambda s: "bandwidth" in s["initial_density"]),
    "toward_data": (["cloud.particles=80", "held_out.particles=80"], None),
    "porous_medium": (["cloud.particles=200", "held_out.particles=500"], lambda s: "functional" in s["exact"]),
    "moving_well": (["cloud.particles=100", "held_out.particles=500"], None),
    "ten_dimensions": (["cloud.particles=200", "held_out.particles=300"],
                       lambda s: abs(s["functional"]["total"] - s["exact"]["functional"]) < 0.05 * abs(s["exact"]["functional"])),
}
RISES = ("moving_well",)  # F itself changes with time there


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[2])
    wrong: list[str] = []
    names = {path.stem for path in folder.glob("*.toml")}
    if names != set(FLOWS):
        wrong.append(f"files of the cookbook: {sorted(names)}")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    wrong += [f"README.md does not name {name}" for name in names if f"({name}.toml)" not in readme]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in names:
            shutil.copy(folder / f"{name}.toml", root)
        angle = np.linspace(0, np.pi, 100)
        moons = [np.c_[np.cos(angle), np.sin(angle)], np.c_[1 - np.cos(angle), 0.3 - np.sin(angle)]]
        np.savetxt(root / "points.csv", np.concatenate(moons), delimiter=",")
        for name, (settings, holds) in FLOWS.items():
            done = subprocess.run([command, "info", root / f"{name}.toml"], text=True, capture_output=True)
            if done.returncode != 0:
                wrong.append(f"{name}: {done.stderr}")
                continue
            # Two steps of the whole.
            words = [word for setting in settings for word in ("--set", setting)]
            tau = float(next(line for line in done.stdout.splitlines() if line.startswith("tau = ")).split(" = ")[1])
            text = (root / f"{name}.toml").read_text(encoding="utf-8")
            short = "\n".join("steps = 2" if line.startswith(("steps =", "end_time =")) else line for line in text.splitlines())
            (root / f"{name}.toml").write_text(short + "\n", encoding="utf-8")
            out = root / name
            done = subprocess.run([command, "run", root / f"{name}.toml", "--out", out, "-q", *SMALL, *words], text=True,
                                  capture_output=True)
            if done.returncode not in (0, 3):
                wrong.append(f"{name}: exit code {done.returncode}: {done.stderr}")
                continue
            summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
            rows = [line.split(",") for line in (out / "history.csv").read_text(encoding="utf-8").splitlines()]
            column = rows[0].index("F")
            values = [float(row[column]) for row in rows[1:]]
            start = float(rows[1][rows[0].index("time")])
            if len(values) != 3 or abs(summary["time"] - start - 2 * tau) > 1e-9:
                wrong.append(f"{name}: steps {values}, t = {summary['time']}")
            if values[-1] >= values[0] and name not in RISES:
                wrong.append(f"{name}: F rises: {values}")
            if holds and not holds(summary):
                wrong.append(f"{name}: {json.dumps(summary)[:600]}")
    if wrong:
        sys.exit("\n".join(wrong))
    print("all of the cookbook runs")


if __name__ == "__main__":
    main()
