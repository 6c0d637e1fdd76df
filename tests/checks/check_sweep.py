#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sweeps, from the command to the figure: usage: check_sweep.py COMMAND FOLDER_OF_PLOT_PY

Two taus with five seeds each of a Fokker-Planck flow whose iterates are known: folders, summary.csv, --resume, refusals,
and the lines and bands that are drawn, against the exact iterates and the exact curve.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONFIG = """
[cloud]
density = "gaussian"
mean = 2
variance = 0.25
particles = 150
[[functional]]
term = "potential"
expression = "0.5*x^2"
[[functional]]
term = "entropy"
[flow]
tau = 0.5
end_time = 1
[network]
hidden = [2]
quadratic_rank = 1
[held_out]
particles = 4000
sampling = "random"
"""
TAUS, SEEDS = (0.2, 0.05), range(1, 6)


def functional(mean, deviation):
    """Of a Gaussian in the well x^2/2, with the entropy."""
    return 0.5 * (mean**2 + deviation**2) - 0.5 * np.log(2 * np.pi * np.e * deviation**2)


def exact(t):
    return functional(2 * np.exp(-t), np.sqrt(1 - 0.75 * np.exp(-2 * t)))


def iterates(tau: float):
    """F of the exact iterates of the scheme, which stay Gaussian."""
    mean, deviation, out = 2.0, 0.5, [functional(2.0, 0.5)]
    for _ in range(round(1 / tau)):
        mean /= 1 + tau
        deviation = (deviation + np.sqrt(deviation**2 + 4 * tau * (1 + tau))) / (2 * (1 + tau))
        out.append(functional(mean, deviation))
    return np.array(out)


WRONG: list[str] = []


def check(condition, what: str) -> None:
    if not condition:
        WRONG.append(what)


def check_numbers(command: str, plot, root: Path) -> None:
    sweep = root / "sweep"
    words = [command, "run", root / "flow.toml", "--sweep", "flow.tau=" + ",".join(map(str, TAUS)), "--seed", "1:5",
             "--jobs", "2", "--out", sweep]
    done = subprocess.run(words, text=True, capture_output=True)
    check(done.returncode in (0, 3), f"exit code {done.returncode}: {done.stdout}{done.stderr}")
    check("10 of 10 runs" in done.stdout and done.stdout.count("\n") <= 12, f"progress: {done.stdout}")
    rows = list(csv.DictReader((sweep / "summary.csv").open()))
    check([(row["flow.tau"], int(row["seed"])) for row in rows] == [(str(tau), seed) for tau in TAUS for seed in SEEDS],
          f"rows of summary.csv: {rows}")
    runs = [plot.Run(sweep / row["run"]) for row in rows]
    for row, run in zip(rows, runs):
        check(row["exit_code"] in ("0", "3") and row["status"] == run.summary["status"], f"how {row['run']} ended: {row}")
        check(float(row["F_heldout"]) == run.column("F_heldout")[-1], f"F of {row['run']}")
        check(int(row["steps"]) == round(1 / float(row["flow.tau"])), f"steps of {row['run']}: {row['steps']}")

    check(plot.swept(runs) == "flow.tau" and plot.swept(runs[:1]) is None, f"what the sweep was over: {plot.swept(runs)}")
    axes = plot.objective(plot.groups_of(runs, "flow.tau")).axes[0]
    lines = [line for line in axes.lines if line.get_label().startswith("flow.tau")]
    check(len(lines) == 2 and len(axes.collections) == 2, "one figure with two lines and two bands")
    check(axes.get_ylabel() == "F on held-out particles", axes.get_ylabel())
    means = {}
    for line, band, tau in zip(lines, axes.collections, TAUS):
        t, mean = line.get_data()
        check(np.allclose(t, tau * np.arange(round(1 / tau) + 1), atol=1e-12), f"times of tau = {tau}")
        # log rho + V has a deviation of about 1 over the particles, of which 5 x 4000 are drawn.
        error = np.abs(mean - iterates(tau)).max()
        check(error < 4 / np.sqrt(5 * 4000), f"tau = {tau}: the line is {error} from the exact iterates")
        edge = band.get_paths()[0].vertices
        values = np.array([run.column("F_heldout") for run in runs if run.settings["flow.tau"] == str(tau)])
        check(np.isclose(edge[:, 1].min(), values.min()) and np.isclose(edge[:, 1].max(), values.max()),
              f"band of tau = {tau}")
        check(np.ptp(values, axis=0).min() > 1e-4, f"seeds of tau = {tau} are all alike")
        means[tau] = mean
    # The seeds are the same, so that their noise goes: what remains is the error of the scheme.
    difference = means[0.2] - means[0.05][::4]
    check(np.abs(difference - iterates(0.2) + iterates(0.05)[::4]).max() < 5e-3, f"between the lines: {difference}")
    drawn = [line for line in axes.lines if line.get_label() == "exact solution"]
    check(len(drawn) == 1 and np.allclose(drawn[0].get_ydata(), exact(drawn[0].get_xdata()), atol=1e-9), "exact curve")
    check(len(drawn[0].get_xdata()) == 21, "the exact curve at the times of the finest runs")

    before = (sweep / "summary.csv").read_text()
    again = subprocess.run([*words, "--resume"], text=True, capture_output=True)
    check(again.returncode == done.returncode and (sweep / "summary.csv").read_text() == before,
          f"resumed: {again.stdout}{again.stderr}")
    refused = subprocess.run(words, text=True, capture_output=True)
    check(refused.returncode == 2 and "--resume" in refused.stderr, f"a sweep into a sweep: {refused.stderr}")


def check_refusals(command: str, root: Path) -> None:
    cases = [
        (["--sweep", "flow.tau"], "KEY=VALUE"), (["--sweep", "flow.tau=0.1,0.1"], "twice"),
        (["--sweep", "seed=1,2"], "--seed"), (["--sweep", "flow.tau=0.1,-1"], "above 0"),
        (["--sweep", "flow.tau=0.5,0.3"], "0.9 and 1.2"), (["--sweep", "flow.tua=0.1,0.2"], "'tau'"),
        (["--seed", "5:1"], "ends before"), (["--seed", "1,x"], "'x'"), (["--seed", "1,1"], "twice"),
        (["--sweep", "flow.tau=0.1,", "--seed", "3"], "empty"),
    ]
    for words, piece in cases:
        out = root / "refused"
        done = subprocess.run([command, "run", root / "flow.toml", "--out", out, *words], text=True, capture_output=True)
        check(done.returncode == 2 and piece in done.stderr, f"{words}: {done.returncode} {done.stderr}")
        check(not out.exists(), f"{words} left a folder")


def check_interrupt(command: str, root: Path) -> None:
    out = root / "interrupted"
    words = [command, "run", root / "flow.toml", "--sweep", "network.hidden=[4,3],[2]", "--out", out, "--jobs", "2", "--set",
             "flow.end_time=500", "--set", "output.checkpoint_every=1"]
    process = subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folders = [out / "network.hidden=4-3", out / "network.hidden=2"]
    end = time.monotonic() + 60
    while not all((folder / "checkpoint.safetensors").exists() for folder in folders) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=60)
    check(process.returncode == 128 + signal.SIGUSR1 and "--resume" in said, f"interrupted: {process.returncode} {said}")
    rows = list(csv.DictReader((out / "summary.csv").open()))
    check([(row["status"], row["exit_code"]) for row in rows] == [("interrupted", "143")] * 2, f"interrupted: {rows}")


def check_paths(command: str, root: Path) -> None:
    """What cannot be written is told with the folder that is in the way. Root may write everywhere, and becomes nobody."""
    root.chmod(0o755)
    locked, plain = root / "locked", root / "plain.txt"
    locked.mkdir(mode=0o555)
    plain.write_text("")
    other = {"user": 65534} if os.geteuid() == 0 else {}
    for out, *pieces in ((locked / "a" / "b", "Permission denied", f"'{locked}'", "may not be written"),
                         (plain / "a", "Not a directory", f"'{plain}' is not a folder")):
        try:
            done = subprocess.run([command, "run", root / "flow.toml", "--out", out, "-q"], text=True, capture_output=True, cwd="/",
                                  **other)
        except PermissionError:
            return  # the command itself lies where nobody else may go
        check(done.returncode == 2 and all(piece in done.stderr for piece in pieces), f"{out}: {done.returncode} {done.stderr}")


def main() -> None:
    sys.path.insert(0, sys.argv[2])
    import plot

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "flow.toml").write_text(CONFIG)
        check_numbers(sys.argv[1], plot, root)
        check_refusals(sys.argv[1], root)
        check_interrupt(sys.argv[1], root)
        check_paths(sys.argv[1], root)
    if WRONG:
        sys.exit("\n".join(WRONG))
    print("sweeps run, go on, and are drawn as they are")


if __name__ == "__main__":
    main()
