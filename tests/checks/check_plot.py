#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Figures of damaged run folders: usage: check_plot.py FOLDER_OF_PLOT_PY

A whole folder is drawn; one with a damaged file, or without room for figures, ends with one line that names the file.
Pages, films and figures of fits that cannot be written likewise.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

STEPS = 3


def make_run(run: Path) -> None:
    for part in ("clouds", "maps", "figures"):
        (run / part).mkdir(parents=True)
    (run / "config.toml").write_text("seed = 0\n")
    (run / "summary.json").write_text(json.dumps({"dim": 1, "mass": 1.0, "exact": {"functional": 0.0}}))
    names = ["step", "time", "F", "F_heldout", "residual", "decrease", "iterations", "seconds"]
    rows = [",".join(names)] + [f"{k},{0.1 * k},{1 / (1 + k)},,1e-3,1e-2,{5 * k},0.1" for k in range(STEPS + 1)]
    (run / "history.csv").write_text("\n".join(rows) + "\n")
    for k in range(STEPS + 1):
        np.save(run / "clouds" / f"step_{k:06d}.npy", np.linspace(-1, 1, 9)[:, None])
        np.save(run / "clouds" / f"log_density_{k:06d}.npy", np.zeros(9))
    np.save(run / "figures" / "exact_density.npy", np.ones((4, 3)))


def array(name: str, value) -> tuple[str, object]:
    return name, lambda file: np.save(file, value)


def text(name: str, value: str) -> tuple[str, object]:
    return name, lambda file: file.write_text(value)


def cut(name: str) -> tuple[str, object]:
    return name, lambda file: file.write_bytes(file.read_bytes()[:-7])


def rewritten(name: str, change) -> tuple[str, object]:
    return name, lambda file: file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")


CLOUD, DENSITY, EXACT = "clouds/step_000001.npy", "clouds/log_density_000001.npy", "figures/exact_density.npy"
DAMAGES = [
    text("summary.json", "[]"), text("summary.json", "{}"), text("summary.json", ""),
    text("summary.json", '{"dim": "1"}'), text("summary.json", '{"dim": 1, "exact": 3}'),
    text("summary.json", '{"dim": 1, "exact": {"functional": "a"}}'), text("summary.json", '{"dim": 1, "mass": []}'),
    ("summary.json", lambda file: file.unlink()), ("history.csv", lambda file: file.unlink()),
    text("history.csv", ""), rewritten("history.csv", lambda lines: lines[:1]),
    rewritten("history.csv", lambda lines: lines[:2] + [lines[2][:4]] + lines[3:]),
    rewritten("history.csv", lambda lines: lines[:2] + lines[3:]),
    rewritten("history.csv", lambda lines: [line.partition(",")[2] for line in lines]),
    rewritten("history.csv", lambda lines: lines[:2] + [lines[2].replace("0.1", "x")] + lines[3:]),
    ("history.csv", lambda file: file.write_bytes(b"\xff\xfe\x00")),
    cut(CLOUD), text(CLOUD, ""), array(CLOUD, np.ones((9, 3))), array(CLOUD, np.full((9, 1), np.nan)),
    array(CLOUD, np.zeros((0, 1))), array(CLOUD, np.array(1.0)), array(CLOUD, np.array(["a"] * 9)),
    cut(DENSITY), array(DENSITY, np.ones(3)), cut(EXACT), array(EXACT, np.ones(3)), text(EXACT, "no array"),
]


def plotted(plot, words: list[str]) -> str:
    """What plot.py ends with; empty where all is well. Anything but SystemExit is a fault, and passes through."""
    sys.argv = ["plot.py", *words]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            plot.main()
        except SystemExit as end:
            return str(end)
    return ""


def resize(run: Path, dim: int, size: float) -> None:
    """A uniform cloud of that size in the place of the run's."""
    (run / "summary.json").write_text(json.dumps({"dim": dim, "mass": 1.0}))
    (run / "figures" / "exact_density.npy").unlink()
    points = size * np.random.default_rng(0).uniform(-1, 1, (50, dim))
    for k in range(STEPS + 1):
        np.save(run / "clouds" / f"step_{k:06d}.npy", points)
        np.save(run / "clouds" / f"log_density_{k:06d}.npy", np.full(50, -dim * np.log(2 * size)))


def unwritten(root: Path) -> list[str]:
    """Each script on a disk that refuses, before and within a file, and in a folder from which nothing can be removed
    either: one line that names the remedy, the exit code for the error, and nothing left over where it can be removed."""
    import movie
    import plot
    import plot_fit
    import report

    run, out = root / "unwritten", root / "out"
    make_run(run)
    (run / "fit.json").write_text(json.dumps({
        "loss": "squared", "test": {"count": 1, "r2": 0.5}, "parameters_of_epoch": 1,
        "history": {"rate": [1.0], "train_loss": [1.0], "validation_loss": [1.0]}}))
    scripts = [(plot, ["--out", str(out), str(run)], out), (report, ["--out", str(out / "r.html"), str(run)], out),
               (movie, ["--out", str(out / "m.gif"), str(run)], out), (plot_fit, [str(run / "fit.json")], run)]
    codes = {errno.ENOSPC: 75, errno.EDQUOT: 75, errno.EACCES: 2, errno.EROFS: 2, errno.EIO: 74}
    wrong = []
    for module, words, folder in scripts:
        name = module.__name__
        for code, expected in codes.items():
            for stuck in (False, True):
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                before = sorted(folder.iterdir())

                def refuse(*_, code=code, **__):
                    raise OSError(code, os.strerror(code), "there")

                said = io.StringIO()
                sys.argv = [f"{name}.py", *words]
                with contextlib.ExitStack() as stack:
                    stack.enter_context(mock.patch("os.replace", refuse))
                    if stuck:
                        stack.enter_context(mock.patch("pathlib.Path.unlink", refuse))
                        if module is not movie:
                            stack.enter_context(mock.patch("pathlib.Path.write_bytes", refuse))
                    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                    stack.enter_context(contextlib.redirect_stderr(said))
                    try:
                        module.main()
                    except SystemExit as end:
                        ended = end.code
                    else:
                        ended = 0
                    plot.plt.close("all")
                what = f"{name} with {errno.errorcode[code]}{' and no way back' if stuck else ''}"
                if ended != expected or "cannot be written" not in said.getvalue() or said.getvalue().count("\n") != 1:
                    wrong.append(f"{what}: {ended}, {said.getvalue()}")
                if not stuck and sorted(folder.iterdir()) != before:
                    wrong.append(f"{what}: files are left over")
    return wrong


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    import plot

    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        whole, run = Path(scratch, "whole"), Path(scratch, "run")
        make_run(whole)
        shutil.copytree(whole, run)
        (run / "clouds" / "step_x.npy").write_text("not one of ours")
        if said := plotted(plot, [str(run)]):
            wrong.append(f"a whole folder: {said}")
        for figure in ("density.png", "objective.png", "certificates.png"):
            if not (run / "figures" / figure).is_file():
                wrong.append(f"no {figure}")
        for number, (name, damage) in enumerate(DAMAGES):
            shutil.rmtree(run)
            shutil.copytree(whole, run)
            damage(run / name)
            said = plotted(plot, [str(run)])
            if not said.startswith("plot: ") or str(run / name) not in said or "\n" in said:
                wrong.append(f"damage {number} of {name}: {said or 'drawn'}")
        for dim in (1, 2, 3):  # densities of these are beyond the range of doubles
            for size in (1e-308, 1e-290, 1e140):
                shutil.rmtree(run)
                shutil.copytree(whole, run)
                resize(run, dim, size)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    if said := plotted(plot, [str(run)]):
                        wrong.append(f"a cloud of size {size} in {dim} dimensions: {said}")
        np.save(run / CLOUD, np.full((50, 3), 1e200))
        if "at most 1e+150 can be drawn" not in (said := plotted(plot, [str(run)])):
            wrong.append(f"a cloud at 1e200: {said or 'drawn'}")
        said = plotted(plot, ["--out", str(whole / "summary.json"), str(whole)])
        if "cannot be written" not in said:
            wrong.append(f"a file in the place of the folder: {said or 'drawn'}")
        wrong += unwritten(Path(scratch))
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(DAMAGES)} damages named")


if __name__ == "__main__":
    main()
