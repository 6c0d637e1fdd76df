#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs the experiments of this folder with several seeds and decides whether they meet their bars.

    bench/paper/judge.py                          everything, 10 seeds: minutes
    bench/paper/judge.py --quick                  everything, 2 seeds
    bench/paper/judge.py --only aggregation --only identity --seeds 3 --out runs/judged --json judged.json

One row per bar: the worst value over the seeds, how many seeds pass, wall seconds of the runs that the row
needed (a row that shares the runs of the row above it has none). Exit status: 0 all bars met, 1 a bar is
missed, 2 it could not be judged.

Deviations are relative to the exact value: stricter than absolute ones, since every F here is below 1. The
exact values are computed here from closed forms, not taken from what the command says about itself. F and the
standard deviation are judged on 100,000 held-out points in two ways, and the worse one counts: as in
summary.json, and from quantiles made here that `brenier push` carries through the maps. The density of those
comes from their spacing, so that a wrong Jacobian in the command cannot go unseen. (Not so for aggregation,
whose pairs are too many.)
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

try:
    import numpy as np
except ModuleNotFoundError:
    print(f"judge: {sys.executable} has no numpy; try /usr/bin/python3, or install python3-numpy",
          file=sys.stderr)
    sys.exit(2)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HELD_OUT = 100_000  # the least that the bars ask for
TIMEOUT = 3600  # seconds for one run


class CannotJudge(Exception):
    """The judge itself could not work: no binary, a folder that is in use."""


# --- closed forms -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """What is known of a density: F and the standard deviation."""

    functional: float
    std: float


# Porous medium equation, m = 2, d = 1, mass 1: rho = t^(-1/3) (C - x^2 t^(-2/3) / 12)_+.
POROUS_C = (3 / 64) ** (1 / 3)
POROUS_START, POROUS_TAU, POROUS_STEPS = 1e-3, 1e-3, 30


def barenblatt(t: float) -> Values:
    """F = int rho^2 and the spread at time t."""
    radius = math.sqrt(12 * POROUS_C) * t ** (1 / 3)
    # A parabola of mass 1 on [-R, R] has height 3/(4R), variance R^2/5 and int rho^2 = 3/(5R).
    return Values(3 / (5 * radius), radius / math.sqrt(5))


def barenblatt_jko(steps: int, tau: float) -> Values:
    """The exact JKO iterate: each step scales the profile by s with s^2 (s - 1) = tau F / variance."""
    now = barenblatt(POROUS_START)
    for _ in range(steps):
        right = tau * now.functional / now.std**2
        low, high = 1.0, 1 + right
        while high - low > 4e-16 * high:
            middle = 0.5 * (low + high)
            if middle in (low, high):
                break
            low, high = (middle, high) if middle**2 * (middle - 1) < right else (low, middle)
        now = Values(now.functional / low, now.std * low)
    return now


def barenblatt_jko_in(dim: int, steps: int, tau: float) -> Values:
    """The same in R^dim: rho = t^(-a) (C - k |x|^2 t^(-2 b))_+, b = 1/(dim + 2), a = dim b, k = b/4, and steps
    s^(dim + 1) (s - 1) = tau dim F / E|x|^2. std: of one coordinate."""
    b = 1 / (dim + 2)
    k = b / 4
    c = (k ** (dim / 2) * math.pi ** (-dim / 2) * math.gamma(2 + dim / 2)) ** (1 / (1 + dim / 2))
    radius = math.sqrt(c / k) * POROUS_START**b
    # |x|^2/R^2 has the law Beta(dim/2, 2).
    now = Values(c * POROUS_START ** (-dim * b) * 4 / (dim + 4), radius / math.sqrt(dim + 4))
    for _ in range(steps):
        right = tau * now.functional / now.std**2
        low, high = 1.0, 1 + right
        for _ in range(200):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if middle ** (dim + 1) * (middle - 1) < right else (low, middle)
        now = Values(now.functional / low**dim, now.std * low)
    return now


def fokker_planck_steady() -> Values:
    """V = x^2, m = 2: rho = (C - x^2/2)_+ of mass 1."""
    c = (9 / 32) ** (1 / 3)
    radius = math.sqrt(2 * c)
    return Values(3 / (5 * radius) + radius**2 / 5, radius / math.sqrt(5))


def aggregation_steady() -> Values:
    """W = r^2/2 - log r: the semicircle of radius sqrt(2), whose mean of log|x - y| is log(R/2) - 1/4."""
    variance = 0.5
    return Values(0.5 * (variance - (math.log(math.sqrt(2) / 2) - 0.25)), math.sqrt(variance))


# --- points of our own --------------------------------------------------------------------------------------


def levels(n: int) -> np.ndarray:
    """(i + 1/2)/n."""
    return (np.arange(n) + 0.5) / n


def barenblatt_quantiles(t: float, n: int = HELD_OUT) -> np.ndarray:
    """(n, 1): with x = R u, 3u - u^3 = 2 (2p - 1) is solved by u = 2 sin(asin(2p - 1)/3)."""
    radius = barenblatt(t).std * math.sqrt(5)
    return (2 * radius * np.sin(np.arcsin(2 * levels(n) - 1) / 3))[:, None]


def normal_quantiles(variance: float, n: int = HELD_OUT) -> np.ndarray:
    """(n, 1)."""
    inverse = statistics.NormalDist(0, math.sqrt(variance)).inv_cdf
    return np.array([inverse(p) for p in levels(n)])[:, None]


def quadrature(x: np.ndarray, stiffness: float) -> Values:
    """F = int rho^2 + stiffness int x^2 drho and the spread, from quantiles (n, 1) of equal mass.

    NaN where they are not ascending: the map is then not monotone.
    """
    x = x[:, 0]
    spacing = np.diff(x)
    if not (spacing > 0).all():
        return Values(math.nan, math.nan)
    internal = np.sum(1 / (len(x) ** 2 * spacing))
    return Values(float(internal + stiffness * np.mean(x**2)), float(np.std(x)))


# --- runs ---------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A finished run folder, or why there is none."""

    folder: Path
    seconds: float
    message: str = ""  # of a run that failed
    summary: dict = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return not self.message

    def number(self, key: str) -> float:
        """A number of summary.json; NaN where the run failed or has none."""
        value = self.summary.get(key, math.nan)
        return float(value) if isinstance(value, (int, float)) else math.nan

    def column(self, name: str) -> np.ndarray:
        """The numbers of a column of history.csv that are known; none of a run that failed."""
        if not self.done:
            return np.array([])
        table = np.genfromtxt(self.folder / "history.csv", delimiter=",", names=True, ndmin=1)
        values = np.atleast_1d(table[name]).astype(float)
        return values[np.isfinite(values)]


class Runner:
    """Calls the command; every run has a folder of its own."""

    def __init__(self, binary: Path, configs: Path, out: Path, threads: int, device: str,
                 verbose: bool) -> None:
        self.binary, self.configs, self.out = binary, configs, out
        self.threads, self.device, self.verbose = threads, device, verbose

    def call(self, *words: str) -> tuple[str, float]:
        """Runs the command. Its message where it failed, otherwise nothing; and wall seconds."""
        start = time.monotonic()
        try:
            result = subprocess.run([str(self.binary), *words], capture_output=True, text=True,
                                    timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return f"ran for more than {TIMEOUT} s", time.monotonic() - start
        except OSError as error:
            raise CannotJudge(f"{self.binary} cannot be run: {error}") from error
        seconds = time.monotonic() - start
        if result.returncode in (0, 3):  # 3: some steps are not solved; what that costs is what the bars judge
            return "", seconds
        lines = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()
        return f"exit status {result.returncode}: {lines[-1]}", seconds

    def run(self, config: str, name: str, seed: int, *options: str, threads: int | None = None) -> Run:
        """One run of CONFIG.toml into OUT/NAME."""
        folder = self.out / name
        if folder.exists():
            raise CannotJudge(f"{folder} exists; give a new folder with --out, or remove it")
        words = ["run", str(self.configs / f"{config}.toml"), "--out", str(folder), "--seed", str(seed)]
        words += ["--quiet", "--threads", str(self.threads if threads is None else threads), *options]
        words += ["--device", self.device] if self.device else []
        message, seconds = self.call(*words)
        file = folder / "summary.json"
        summary = json.loads(file.read_text()) if file.is_file() else {}
        if not message and summary.get("status") not in ("done", "unsolved"):
            message = f"status {summary.get('status')!r} where it should have come to its end"
        # The numbers of a run that failed are those of its last step, which nobody should judge.
        run = Run(folder, seconds, message, {} if message else summary)
        run.message += f" ({summary['reason']})" if message and "reason" in summary else ""
        if message.startswith("exit status 2:"):
            raise CannotJudge(f"{shlex.join([str(self.binary), *words])}: {message}")
        if self.verbose:
            print(f"  {name}: {run.message or 'done'}, {seconds:.1f} s", file=sys.stderr, flush=True)
        return run

    def push(self, run: Run, x: np.ndarray, stiffness: float) -> Values:
        """Our own quantiles through the maps of a run; NaN where it failed."""
        if not run.done:
            return Values(math.nan, math.nan)
        cloud, pushed = run.folder / "judge.npy", run.folder / "judge-pushed.npy"
        np.save(cloud, x)
        message, seconds = self.call("push", str(run.folder), str(cloud), "--out", str(pushed), "--threads",
                                     str(self.threads))
        run.seconds += seconds
        if message:
            raise CannotJudge(f"{self.binary} push {run.folder}: {message}")
        return quadrature(np.load(pushed), stiffness)


# --- rows ---------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One bar: the value of each seed (NaN: the run failed), and whether small or large values are good."""

    experiment: str
    what: str
    bar: float
    values: list[float]
    seconds: float | None = None
    at_least: bool = False

    def passes(self) -> list[bool]:
        """Per seed. A value that is not a number never passes."""
        return [value >= self.bar if self.at_least else value <= self.bar for value in self.values]

    def passed(self) -> bool:
        return bool(self.values) and all(self.passes())

    def worst(self) -> float:
        """NaN where a run failed."""
        if any(math.isnan(value) for value in self.values):
            return math.nan
        return min(self.values) if self.at_least else max(self.values)

    def as_json(self) -> dict:
        values = [None if math.isnan(v) else v for v in self.values]
        worst = self.worst()
        return {"experiment": self.experiment, "what": self.what,
                "bar": self.bar, "sense": ">=" if self.at_least else "<=", "values": values,
                "worst": None if math.isnan(worst) else worst, "passes": sum(self.passes()),
                "of": len(self.values), "passed": self.passed(), "seconds": self.seconds}


def deviation(value: float, exact: float) -> float:
    """Relative."""
    return abs(value - exact) / abs(exact)


def larger(a: float, b: float) -> float:
    """The larger one; NaN where either is."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def held_out_functional(run: Run) -> float:
    """F of summary.json, which must be that of enough particles."""
    return run.number("heldout_functional") if run.number("heldout_particles") >= HELD_OUT else math.nan


def seconds_of(runs: Sequence[Run]) -> float:
    return sum(run.seconds for run in runs)


def porous_medium(runner: Runner, seeds: int) -> list[Row]:
    """Order 1, against the exact JKO iterates."""
    exact = barenblatt_jko(POROUS_STEPS, POROUS_TAU)
    start = barenblatt_quantiles(POROUS_START)
    runs = [runner.run("porous_medium", f"porous_medium-{s}", s) for s in range(1, seeds + 1)]
    own = [runner.push(run, start, 0) for run in runs]
    functional = [larger(deviation(held_out_functional(r), exact.functional),
                         deviation(o.functional, exact.functional)) for r, o in zip(runs, own)]
    std = [larger(deviation(r.number("std"), exact.std), deviation(o.std, exact.std))
           for r, o in zip(runs, own)]
    finished = [1.0 if r.done and r.number("steps") == POROUS_STEPS else 0.0 for r in runs]
    name = "porous medium, order 1"
    return [Row(name, "finishes", 1, finished, seconds_of(runs), at_least=True),
            Row(name, f"F against the exact iterate {exact.functional:.5f}", 1e-3, functional),
            Row(name, f"std against the exact iterate {exact.std:.5f}", 1e-3, std)]


def porous_medium_order2(runner: Runner, seeds: int) -> list[Row]:
    """Order 2, against the PDE, at tau and tau/2."""
    exact = barenblatt(POROUS_START + POROUS_STEPS * POROUS_TAU)
    start = barenblatt_quantiles(POROUS_START)

    def errors(name: str, *settings: str) -> tuple[list[Run], list[float]]:
        words = [word for text in ("flow.order=2", *settings) for word in ("--set", text)]
        runs = [runner.run("porous_medium", f"{name}-{s}", s, *words) for s in range(1, seeds + 1)]
        own = [runner.push(run, start, 0) for run in runs]
        return runs, [larger(deviation(r.number("std"), exact.std), deviation(o.std, exact.std))
                      for r, o in zip(runs, own)]

    coarse_runs, coarse = errors("porous_medium_order2")
    fine_runs, fine = errors("porous_medium_order2_half", f"flow.tau={POROUS_TAU / 2!r}",
                             f"flow.steps={2 * POROUS_STEPS}")
    ratios = [a / b if b > 0 else math.inf for a, b in zip(coarse, fine)]
    name = "porous medium, order 2"
    return [Row(name, f"std against the PDE's {exact.std:.5f}", 4e-3, coarse, seconds_of(coarse_runs)),
            Row(name, "error of std at tau over that at tau/2", 2.5, ratios, seconds_of(fine_runs),
                at_least=True)]


def porous_medium_dimensions(runner: Runner, seeds: int) -> list[Row]:
    """Order 1 in 2, 3, 6 and 10 dimensions, against the exact JKO iterates."""
    rows = []
    for dim in (2, 3, 6, 10):
        exact = barenblatt_jko_in(dim, POROUS_STEPS, POROUS_TAU)
        runs = [runner.run("porous_medium_dimensions", f"porous_medium_{dim}d-{s}", s, "--set", f"cloud.dim={dim}")
                for s in range(1, seeds + 1)]
        functional = [deviation(held_out_functional(r), exact.functional) for r in runs]
        std = [deviation(r.number("std"), exact.std) for r in runs]
        name = f"porous medium, d = {dim}"
        rows += [Row(name, f"F against the exact iterate {exact.functional:.5f}", 5e-3, functional,
                     seconds_of(runs)),
                 Row(name, f"std against the exact iterate {exact.std:.5f}", 5e-3, std)]
    return rows


def fokker_planck(runner: Runner, seeds: int) -> list[Row]:
    """To the steady state, and never below it."""
    exact = fokker_planck_steady().functional
    start = normal_quantiles(0.2)
    runs = [runner.run("nonlinear_fokker_planck", f"nonlinear_fokker_planck-{s}", s)
            for s in range(1, seeds + 1)]
    own = [runner.push(run, start, 1) for run in runs]
    functional = [larger(deviation(held_out_functional(r), exact), deviation(o.functional, exact))
                  for r, o in zip(runs, own)]
    below = []
    for run, ours in zip(runs, own):
        recorded = run.column("F_heldout")
        least = float(recorded.min()) if len(recorded) > 1 else math.nan
        below.append(larger(0.0, larger((exact - least) / exact, (exact - ours.functional) / exact)))
    name = "nonlinear Fokker-Planck"
    return [Row(name, f"F against the steady state's {exact:.5f}", 1e-3, functional, seconds_of(runs)),
            Row(name, "F below it, at any recorded step", 1e-4, below)]


def aggregation(runner: Runner, seeds: int) -> list[Row]:
    """To the steady state."""
    exact = aggregation_steady().functional
    runs = [runner.run("aggregation", f"aggregation-{s}", s) for s in range(1, seeds + 1)]
    functional = [deviation(held_out_functional(r), exact) for r in runs]
    return [Row("aggregation", f"F against the steady state's {exact:.5f}", 1e-3, functional,
                seconds_of(runs))]


def results(folder: Path) -> dict[str, bytes]:
    """Every file of a run that must not depend on when and where it ran."""
    files = [*folder.glob("clouds/*.npy"), *folder.glob("maps/*.safetensors")]
    files.append(folder / "checkpoint.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def differences(first: dict[str, bytes], second: dict[str, bytes]) -> int:
    """Files that only one side has, or that are not the same to the byte."""
    return sum(first.get(key) != second.get(key) for key in first.keys() | second.keys())


def identity(runner: Runner, seeds: int) -> list[Row]:
    """The same bytes from run to run, and for 1, 2 and 4 threads. Does not depend on the number of seeds."""
    del seeds
    steps = ("--set", "flow.steps=4")
    cases = {"porous medium": ("porous_medium",),
             "porous medium, order 2": ("porous_medium", *steps, "--set", "flow.order=2"),
             "porous medium, minibatches": ("porous_medium", *steps, "--set", "inner.minibatch=333"),
             "nonlinear Fokker-Planck": ("nonlinear_fokker_planck", *steps),
             "aggregation": ("aggregation", *steps, "--set", "held_out.particles=0")}
    rows = []
    for number, (name, (config, *options)) in enumerate(cases.items(), 1):
        runs = [runner.run(config, f"identity-{number}-{label}", 7, *options, threads=threads)
                for label, threads in (("threads1", 1), ("again", 1), ("threads2", 2), ("threads4", 4))]
        first = results(runs[0].folder)
        # Maps and at least the first and the last cloud: nothing at all would be identical, too.
        complete = sum(key.startswith("maps") for key in first) >= 4 and len(first) >= 7
        complete = complete and [run.number("threads") for run in runs] == [1, 1, 2, 4]
        differing = [float(differences(first, results(run.folder))) if complete else math.nan
                     for run in runs[1:]]
        rows.append(Row("identity", f"files that differ: {name}", 0, differing, seconds_of(runs)))
    return rows


EXPERIMENTS: dict[str, Callable[[Runner, int], list[Row]]] = {
    "porous_medium": porous_medium,
    "porous_medium_order2": porous_medium_order2,
    "porous_medium_dimensions": porous_medium_dimensions,
    "nonlinear_fokker_planck": fokker_planck,
    "aggregation": aggregation,
    "identity": identity,
}


# --- the table ----------------------------------------------------------------------------------------------

LAYOUT = "{:<24} {:<46} {:>8} {:>10} {:>9} {:>8}  {}"


def line(row: Row) -> str:
    worst = row.worst()
    sign = ">=" if row.at_least else "<="
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    return LAYOUT.format(row.experiment, row.what, f"{sign} {row.bar:g}",
                         "failed" if math.isnan(worst) else f"{worst:.3g}",
                         f"{sum(row.passes())} of {len(row.values)}", seconds,
                         "pass" if row.passed() else "MISSED").rstrip()


def self_test() -> None:
    """The closed forms against published digits, our quadrature against the closed forms, rows that fail."""
    def near(value: float, expected: float, relative: float) -> None:
        assert deviation(value, expected) <= relative, f"{value!r} is not {expected!r}"

    iterate, exact = barenblatt_jko(30, 1e-3), barenblatt(0.031)
    for tau in (1e-3, 0.3):
        same = barenblatt_jko_in(1, 7, tau)
        near(same.functional, barenblatt_jko(7, tau).functional, 1e-12)
        near(same.std, barenblatt_jko(7, tau).std, 1e-12)
    # C of mass 1 for m = 2, from the density's integral over balls: 0.199471 in the plane, 0.045803 in R^10.
    near(barenblatt_jko_in(2, 0, 1).functional, 0.199471 * POROUS_START**-0.5 * 2 / 3, 1e-5)
    near(barenblatt_jko_in(10, 0, 1).functional, 0.045803 * POROUS_START ** (-10 / 12) * 2 / 7, 1e-5)
    near(iterate.functional, 0.9290, 6e-5)
    near(iterate.std, 0.28885, 2e-5)
    near(exact.std, 0.29222, 2e-5)
    near(exact.functional, 0.28845 * 0.031 ** (-1 / 3), 2e-5)
    near(fokker_planck_steady().functional, 0.7862224182626687, 1e-14)
    near(aggregation_steady().functional, 0.5482867951399863, 1e-14)
    near(fokker_planck_steady().std, 0.5119317722322865, 1e-14)
    # The edges of a density that vanishes there are what the spacing sees worst.
    near(quadrature(barenblatt_quantiles(0.031), 0).functional, exact.functional, 2e-6)
    near(quadrature(barenblatt_quantiles(0.031), 0).std, exact.std, 2e-6)
    steady = barenblatt_quantiles(0.031) * (fokker_planck_steady().std / exact.std)
    near(quadrature(steady, 1).functional, fokker_planck_steady().functional, 2e-6)
    # F(N(0, v)) = 1/(2 sqrt(pi v)) + v.
    near(quadrature(normal_quantiles(0.2), 1).functional, 1 / (2 * math.sqrt(0.2 * math.pi)) + 0.2, 2e-5)
    assert math.isnan(quadrature(barenblatt_quantiles(0.031)[::-1], 0).functional)
    assert Row("", "", 1e-3, [1e-4, 9e-4]).passed() and not Row("", "", 1e-3, [1e-4, 1.1e-3]).passed()
    assert Row("", "", 2.5, [3, 2.6], at_least=True).passed()
    assert not Row("", "", 2.5, [3, 2.4], at_least=True).passed()
    assert not Row("", "", 1e-3, [1e-4, math.nan]).passed() and not Row("", "", 1e-3, []).passed()
    assert differences({"a": b"0", "b": b"1"}, {"a": b"0", "b": b"1"}) == 0
    assert differences({"a": b"0", "b": b"1"}, {"a": b"0", "b": b"2", "c": b""}) == 2
    assert "MISSED" in line(Row("", "", 0, [math.nan])) and "0 of 1" in line(Row("", "", 0, [math.nan]))
    print("judge: self-test passed")


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "build" / "tools" / "brenier",
                        help="the command (build/tools/brenier)")
    parser.add_argument("--configs", type=Path, default=HERE, help="folder of the .toml files (this one)")
    parser.add_argument("--only", action="append", choices=list(EXPERIMENTS), help="may be repeated")
    parser.add_argument("--seeds", type=int, help="seeds 1 .. N (10)")
    parser.add_argument("--quick", action="store_true", help="2 seeds")
    parser.add_argument("--threads", type=int, default=0, help="of the runs; 0: all processors")
    parser.add_argument("--device", default="", help="of the runs, e.g. cuda (as configured)")
    parser.add_argument("--out", type=Path, help="keeps the run folders there (a temporary folder)")
    parser.add_argument("--json", type=Path, help="the table with the value of each seed")
    parser.add_argument("--verbose", action="store_true", help="a line per run")
    parser.add_argument("--self-test", action="store_true", help="checks the judge, runs nothing")
    options = parser.parse_args()
    if options.seeds is None:
        options.seeds = 2 if options.quick else 10
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; at least 1")
    return options


def judge(options: argparse.Namespace, out: Path) -> bool:
    """Runs, prints and writes; whether all bars are met."""
    runner = Runner(options.binary, options.configs, out, options.threads, options.device, options.verbose)
    rows: list[Row] = []
    print(LAYOUT.format("experiment", "what", "bar", "worst", "pass", "seconds", "").rstrip(), flush=True)
    for name in options.only or EXPERIMENTS:
        for row in EXPERIMENTS[name](runner, options.seeds):
            rows.append(row)
            print(line(row), flush=True)
        if options.json:  # after each experiment: a long run that is cut off leaves what it knows
            table = {"seeds": options.seeds, "passed": all(r.passed() for r in rows),
                     "rows": [r.as_json() for r in rows]}
            options.json.write_text(json.dumps(table, indent=2) + "\n")
    missed = sum(not row.passed() for row in rows)
    print(f"{len(rows) - missed} of {len(rows)} bars met")
    return missed == 0


def main() -> int:
    options = arguments()
    if options.self_test:
        self_test()
        return 0
    if not options.binary.is_file():
        print(f"judge: {options.binary} is not there; build the command, or name it with --binary",
              file=sys.stderr)
        return 2
    try:
        if options.out is None:
            with tempfile.TemporaryDirectory(prefix="brenier-judge-") as folder:
                return 0 if judge(options, Path(folder)) else 1
        options.out.mkdir(parents=True, exist_ok=True)
        return 0 if judge(options, options.out) else 1
    except (CannotJudge, OSError) as error:
        print(f"judge: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
