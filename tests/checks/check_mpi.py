#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`mpirun -n P brenier run` and `resume`: the same bits as one process for any P and number of threads, also where a run
goes on with another P; one message where something is wrong; no rank is left where one is killed.

    check_mpi.py MPIRUN BRENIER FOLDER [--all]

With --all every flow runs with 1, 2, 3, 4 and 7 ranks of 1 and 2 threads, which takes minutes: mpirun alone takes a second
or two.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np

CLOUD = """
seed = 5
[cloud]
density = "{density}"
dim = {dim}
{more}
particles = 600
sampling = "random"
"""
NETWORK = '[network]\nhidden = [8, 4]\nquadratic_rank = 1\n'


def flow(cloud: str, *terms: str, steps: str, inner: str, held_out: int = 0) -> str:
    """A configuration. Of cloud, terms, steps and inner the lines that its tables have."""
    parts = [cloud, f"[held_out]\nparticles = {held_out}", *("[[functional]]\n" + term for term in terms),
             "[flow]\n" + steps, NETWORK + "[inner]", inner, ""]
    return "\n".join(parts)


def gaussian(more: str = "") -> str:
    return CLOUD.format(density="gaussian", dim=2, more=more)


FLOWS = {
    "porous_medium": flow(CLOUD.format(density="barenblatt", dim=1, more="time = 1e-3\nm = 2"), 'term = "porous_medium"\nm = 2',
                          steps="start_time = 1e-3\ntau = 1e-3\nsteps = 3\norder = 2", inner="iterations = 15", held_out=700),
    "interaction": flow(gaussian(), 'term = "interaction"\nexpression = "0.5*r^2 - log(r)"',
                        steps="tau = 0.05\nsteps = 2", inner="iterations = 10"),
    "sinkhorn": flow(gaussian(), 'term = "sinkhorn"\nreference = "reference.npy"\nepsilon = 0.2\niterations = 10\nwarm_iterations = 2',
                     steps="tau = 0.05\nsteps = 1", inner='solver = "adam"\niterations = 3'),
    "minibatch": flow(gaussian("mean = 1"), 'term = "entropy"', 'term = "potential"\nexpression = "0.5*sum(x^2)"',
                      steps="tau = 0.05\nsteps = 2", inner="minibatch = 530\niterations = 8"),
}
LONG = FLOWS["minibatch"].replace("steps = 2", "steps = 4000") + "[output]\ncheckpoint_every = 1\nevery = 100000\n"
# Ranks and threads of each flow where not all are taken.
SOME = {"porous_medium": [(2, 1), (7, 1)], "interaction": [(3, 2)], "sinkhorn": [(2, 1)], "minibatch": [(4, 2)]}
TIMES = {"seconds", "inner_seconds", "cloud_seconds", "certificate_seconds"}


class Check:
    def __init__(self, mpirun: str, brenier: str, folder: Path, whole: bool = False) -> None:
        self.mpirun, self.brenier, self.folder, self.whole = mpirun, brenier, folder, whole
        self.environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                            "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
                            "OMPI_MCA_mpi_yield_when_idle": "1"}

    def command(self, ranks: int, *arguments: object) -> list[str]:
        start = [self.mpirun, "-n", str(ranks)] if ranks else []
        return [*start, self.brenier, *map(str, arguments)]

    def run(self, ranks: int, *arguments: object, code: int | None = 0) -> str:
        done = subprocess.run(self.command(ranks, *arguments), env=self.environment, capture_output=True, text=True,
                              timeout=120, cwd=self.folder)
        text = done.stdout + done.stderr
        if code is not None and done.returncode not in (code, 3):
            raise AssertionError(f"{arguments} with {ranks} ranks: exit code {done.returncode}\n{text}")
        if code is None and done.returncode == 0:
            raise AssertionError(f"{arguments} with {ranks} ranks did not fail")
        return text

    def content(self, name: str) -> dict[str, object]:
        """All of a run that is to be the same."""
        run = self.folder / name
        out: dict[str, object] = {str(p.relative_to(run)): p.read_bytes()
                                  for part in ("clouds", "maps") for p in sorted((run / part).iterdir())}
        with open(run / "history.csv", newline="", encoding="utf-8") as file:
            out["history"] = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
        assert len(out) > 3, f"{name} has no clouds and maps"
        return out

    def same(self, name: str, other: str) -> None:
        a, b = self.content(name), self.content(other)
        assert a.keys() == b.keys(), f"{name} and {other} have other files"
        differing = [key for key in a if a[key] != b[key]]
        assert not differing, f"{name} and {other} differ in {differing}"

    def bits(self) -> None:
        for flow in FLOWS:
            self.run(0, "run", f"{flow}.toml", "--out", flow, "--threads", 1, "-q")
            for ranks, threads in product((1, 2, 3, 4, 7), (1, 2)) if self.whole else SOME[flow]:
                name = f"{flow}-{ranks}-{threads}"
                self.run(ranks, "run", f"{flow}.toml", "--out", name, "--threads", threads, "-q")
                self.same(flow, name)
                print(f"{name}: the bits of one process", flush=True)

    def resumed(self) -> None:
        self.run(3, "run", "porous_medium.toml", "--out", "part", "--threads", 1, "--set", "flow.steps=1")
        self.run(2, "resume", "part", "--steps", 2, "-q")
        self.run(0, "resume", "part", "--steps", 3, "-q")
        self.same("porous_medium", "part")
        summary = (self.folder / "part" / "summary.json").read_bytes()
        text = self.run(2, "resume", "part")
        assert text.count("none is left") == 1, f"a finished run is not told once to be so:\n{text}"
        assert (self.folder / "part" / "summary.json").read_bytes() == summary

    def messages(self) -> None:
        text = self.run(3, "run", "interaction.toml", "--out", "bad", "--set", "flow.tau=-1", code=None)
        assert text.count("it must be above 0") == 1, f"a wrong configuration is not told once:\n{text}"
        assert not (self.folder / "bad").exists()
        text = self.run(2, "run", "interaction.toml", "--out", "interaction", code=None)
        assert "not empty" in text, text
        text = self.run(2, "info", code=None)
        assert "'info' is for one process" in text, text

    def killed(self) -> None:
        """kill -9 of one rank ends the others within 10 s, and the run goes on from its checkpoint."""
        with subprocess.Popen(self.command(3, "run", "long.toml", "--out", "long", "--threads", 1), cwd=self.folder,
                              env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
            wait_for(lambda: (self.folder / "long/checkpoint.safetensors").exists(), 60, "a first checkpoint")
            ranks = children(started.pid)
            assert len(ranks) == 3, f"{len(ranks)} ranks"
            begin = time.monotonic()
            os.kill(ranks[1], signal.SIGKILL)
            code = started.wait(timeout=10)
            wait_for(lambda: not any(alive(rank) for rank in ranks), 10 - (time.monotonic() - begin), "the end of all")
            print(f"killed: all ended within {time.monotonic() - begin:.2f} s, exit code {code}")
            assert code != 0
        steps = max(int(p.stem.split("_")[1]) for p in (self.folder / "long/maps").iterdir()) + 1
        self.run(2, "resume", "long", "--steps", steps, "-q")
        self.run(0, "run", "long.toml", "--out", "whole", "--set", f"flow.steps={steps}", "-q")
        self.same("whole", "long")

    def interrupted(self) -> None:
        """Ctrl-C at mpirun, and SIGTERM to one rank alone, as a batch system sends it: all end in a few seconds, the folder is
        whole, and going on has the bits of a run that was left in peace. mpirun passes Ctrl-C on as SIGTERM after
        odls_base_sigkill_timeout seconds, by default one, and kills what is left after as many again."""
        for name, patience in (("ctrl-c", 4), ("ctrl-c-at-once", None), ("one-rank", None)):
            environment = self.environment | ({"OMPI_MCA_odls_base_sigkill_timeout": str(patience)} if patience else {})
            with subprocess.Popen(self.command(3, "run", "long.toml", "--out", name, "--threads", 1), cwd=self.folder,
                                  env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as started:
                wait_for(lambda: (self.folder / name / "checkpoint.safetensors").exists(), 60, "a first checkpoint")
                ranks = children(started.pid)
                begin = time.monotonic()
                if name == "one-rank":
                    os.kill(ranks[1], signal.SIGTERM)
                else:
                    started.send_signal(signal.SIGINT)
                said = started.communicate(timeout=60)[0]
                wait_for(lambda: not any(alive(rank) for rank in ranks), 10, "the end of all")
                seconds = time.monotonic() - begin
            summary = json.loads((self.folder / name / "summary.json").read_text(encoding="utf-8"))
            print(f"{name}: all ended within {seconds:.2f} s, exit code {started.returncode}, {summary['status']}")
            assert seconds < 10 + 2 * (patience or 0) and started.returncode != 0, said
            if name == "one-rank" or patience:
                assert summary["status"] == "interrupted", f"{name}: {summary['status']}\n{said}"
            checked = self.run(0, "info", name)
            assert " 0 damaged" in checked, checked
            done = max(int(p.stem.split("_")[1]) for p in (self.folder / name / "maps").iterdir())
            self.run(2, "resume", name, "--steps", done + 1, "-q")
            # One that ends at that step by itself writes a cloud there, as one that is interrupted does.
            first = done if summary["status"] == "interrupted" else done + 1
            self.run(0, "run", "long.toml", "--out", f"{name}-whole", "--set", f"flow.steps={first}", "-q")
            self.run(0, "resume", f"{name}-whole", "--steps", done + 1, "-q")
            self.same(f"{name}-whole", name)

    def all(self) -> None:
        for name, text in (*FLOWS.items(), ("long", LONG)):
            (self.folder / f"{name}.toml").write_text(text, encoding="utf-8")
        np.save(self.folder / "reference.npy", 1 + 0.5 * np.random.default_rng(3).standard_normal((530, 2)))
        for part in (self.bits, self.resumed, self.messages, self.killed, self.interrupted):
            begin = time.monotonic()
            part()
            print(f"{part.__name__}: {time.monotonic() - begin:.1f} s", flush=True)


def children(process: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come in {seconds:.0f} s"
        time.sleep(0.02)


def main() -> None:
    mpirun, brenier, folder = sys.argv[1], str(Path(sys.argv[2]).resolve()), Path(sys.argv[3]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    Check(mpirun, brenier, folder, "--all" in sys.argv).all()


if __name__ == "__main__":
    main()
