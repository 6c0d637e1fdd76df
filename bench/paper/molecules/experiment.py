# SPDX-License-Identifier: MIT
"""The stages of the experiment: codes, classifier, clouds, flows, direct optimisation, decoding.

Everything a stage makes lies in a folder and is made once; a folder is for one set of autoencoder weights and one size.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable

import numpy as np

import plain
from autoencoder import Autoencoder
from chemistry import Decoded, properties, share_valid
from data import CannotRun, sets

CONFIGURATIONS = Path(__file__).resolve().parent.parent
EPSILON = 0.0025  # of SD
SWEEP_TIME = 0.1  # of the flows that lambda_2 is swept with
GRADIENT = 66.0  # of V at the start, root mean square: the authors' V has this, and lambda_2, tau and rates are for it


@dataclass(frozen=True)
class Dataset:
    """What the paper sets differently for the two sets of molecules."""

    name: str
    threshold: float  # QED of the classifier's labels: 0 at and above it, so that V is low where molecules are good
    start_below: float  # QED of the initial molecules
    start_from: str  # the set that they are drawn from
    valid: float  # least shares of a flow's end that is called good
    unique: float


DATASETS = {"moses": Dataset("moses", 0.85, 0.7, "test", 0.93, 0.99), "qm9": Dataset("qm9", 0.5, 0.35, "train", 0.92, 0.82)}


# From the best affine map of the cloud: a quarter of the time of Adam to the same F.
LBFGS = ("inner.solver=lbfgs", "network.quadratic_rank=128")


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    labelled: int = 400_000  # molecules for the classifier, at most as many as there are: their number is what its errors hang on
    epochs: int = 25
    cloud: int = 1000
    steps: int = 100  # of flows
    descent_steps: int = 100
    every: int = 10  # steps between decoded clouds
    measured: int = 10_000  # molecules for the numbers of the autoencoder
    new: tuple[int, ...] = (1000, 2000, 3000, 4000, 5000)  # points of table 8
    settings: tuple[str, ...] = (*LBFGS, "inner.iterations=60")  # of every flow


# Few points are few steps of Adam an epoch.
QUICK = Size(labelled=2000, epochs=60, cloud=300, steps=10, descent_steps=10, every=5, measured=300, new=(200, 400),
             settings=(*LBFGS, "inner.iterations=30"))


def size_of(quick: bool, changes: list[str], settings: list[str]) -> Size:
    """The size, with NAME=N changed and the settings of all flows appended. Raises CannotRun."""
    size = QUICK if quick else Size()
    for text in changes:
        name, _, value = text.partition("=")
        if not isinstance(getattr(size, name, None), int) or not value.isdigit():
            known = ", ".join(n for n, v in vars(size).items() if isinstance(v, int))
            raise CannotRun(f"--size {text}: NAME=N with a whole number, NAME of {known}")
        size = replace(size, **{name: int(value)})
    return replace(size, settings=(*size.settings, *settings))


@dataclass(frozen=True)
class Case:
    """A flow: a configuration of bench/paper, and what is set in it."""

    name: str
    config: str = "molecules"
    settings: tuple[str, ...] = ()

    @classmethod
    def of(cls, distance: str, weight: float, tau: float = 1e-4) -> "Case":
        """With lambda_2 = `weight` on "sinkhorn" or "mmd"; the authors' library takes half of the squared MMD."""
        value = weight if distance == "sinkhorn" else weight / 2
        settings = (f"functional.1.weight={value!r}", f"flow.tau={tau!r}")
        name = f"{distance}_{weight:g}" + (f"_tau_{tau:g}" if tau != 1e-4 else "")
        return cls(name, "molecules" if distance == "sinkhorn" else "molecules_mmd", settings)

    @classmethod
    def swept(cls, weight: float, steps: int) -> "Case":
        """Of the sweep of lambda_2: ten times as far in time as the paper's flow, for smaller weights to come to rest."""
        return replace(cls.of("sinkhorn", weight, SWEEP_TIME / steps), name=f"sweep_{weight:g}")


@dataclass
class Cloud:
    """Points in the latent space, in a .npy file, and what they decode to."""

    file: Path
    decoded: Decoded
    sd: float = math.nan


@dataclass
class Run:
    """A flow or a descent that has come to its end: its clouds by step. `failed` says why where it has not."""

    seed: int
    clouds: dict[int, Cloud] = field(default_factory=dict)
    potential: tuple[float, float] = (math.nan, math.nan)
    seconds: float = math.nan
    folder: Path | None = None
    failed: str = ""

    @property
    def end(self) -> Cloud:
        """The last cloud."""
        return self.clouds[max(self.clouds)]


class Experiment:
    """The stages. Raises CannotRun where a program or a file is missing."""

    def __init__(self, dataset: Dataset, size: Size, weights: Path, folder: Path, programs: Path, threads: int) -> None:
        for file in (weights, programs / "tools" / "brenier", programs / "bench" / "brenier_bench_molecules"):
            if not file.is_file():
                raise CannotRun(f"{file} is not there; build it, or give its place")
        self.dataset, self.size, self.threads, self.programs = dataset, size, threads, programs
        sum_ = hashlib.sha256(weights.read_bytes() + repr(size).encode()).hexdigest()[:8]
        self.folder = folder / f"{dataset.name}-{sum_}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.train, self.test = sets(dataset.name, folder / "data")
        self.coder = Autoencoder.load(weights)
        record = weights.with_suffix(".json")
        content = json.loads(record.read_text()) if record.is_file() else {}
        self.recorded: dict[str, float] = content.get("measured", {})  # shares that `autoencoder` finds

    # --- programs ------------------------------------------------------------------------------------------------

    def call(self, *words: str | Path, allowed: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """Runs a program of the build folder."""
        result = subprocess.run([str(self.programs / words[0]), *map(str, words[1:])], capture_output=True, text=True,
                                check=False)
        if result.returncode not in allowed:
            message = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
            raise CannotRun(f"{' '.join(map(str, words))}: exit status {result.returncode}: {message}")
        return result

    def brenier(self, *words: str | Path, allowed: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """Runs the command."""
        return self.call("tools/brenier", *words, "--threads", str(self.threads), allowed=allowed)

    def sd(self, start: Path, end: Path) -> float:
        """The paper's final SD: entropic transport, epsilon = 0.0025, not debiased."""
        text = self.brenier("distance", start, end, "--metric", "sinkhorn", "--epsilon", EPSILON, "--json").stdout
        return float(json.loads(text)["sinkhorn"]["value"])

    # --- codes and classifier ------------------------------------------------------------------------------------

    def decoded(self, file: Path) -> Cloud:
        """Decodes a cloud; the strings are kept beside it, as .smi."""
        strings = file.with_suffix(".smi")
        if not strings.is_file():
            strings.write_text("".join(f"{s}\n" for s in self.coder.decode(np.load(file))))
        return Cloud(file, Decoded.of(strings.read_text().split("\n")[:-1]))

    def labelled(self) -> dict[str, np.ndarray]:
        """Random training molecules: their codes, the deviations of their posteriors, qed and log_p."""
        file = self.folder / "labelled.npz"
        random = np.random.default_rng(2)
        chosen = random.permutation(len(self.train))[:self.size.labelled]
        if not file.is_file():
            smiles = [self.train[i] for i in chosen]
            found = [properties(s) for s in smiles]
            qed = np.array([p.qed if p else math.nan for p in found])
            log_p = np.array([p.log_p if p else math.nan for p in found])
            codes, deviations = self.coder.encode(smiles)
            np.savez(file, codes=codes, deviations=deviations, qed=qed, log_p=log_p)
        return dict(np.load(file))

    def classifier(self, name: str = "qed", labels: np.ndarray | None = None, sampled: bool = True) -> tuple[Path, dict]:
        """A convex potential on codes and its summary; of QED unless labels (of `labelled`, nan: left out) are given.

        A coordinate that hardly varies stays small to the network, and is then taken at its mean: V does not depend on it.
        With `sampled` the other coordinates are draws from the posterior, which decode alike: V is then smooth on the
        scale on which the decoder is. On the means it parts molecules by what the decoder does not look at. V is the
        logit in the units of the authors' V (GRADIENT); `gradient` of the summary is what that of the logit was.
        """
        file = self.folder / f"{name}.safetensors"
        if not file.is_file():
            content = self.labelled()
            if labels is None:
                labels = np.where(np.isnan(content["qed"]), np.nan, content["qed"] < self.dataset.threshold)
            known = ~np.isnan(labels)
            codes = content["codes"][known]
            placed = codes
            if sampled:
                noise = np.random.default_rng(5).standard_normal(codes.shape).astype(np.float32)
                placed = codes + noise * content["deviations"][known] * active(codes)
            points, targets = self.folder / f"{name}_points.npy", self.folder / f"{name}_labels.npy"
            np.save(points, placed)
            np.save(targets, labels[known].astype(np.float64))
            # As in the paper, whatever the size; L-BFGS on few points is quick to know them by heart. Of all epochs the best.
            self.brenier("fit", points, targets, "--out", file, "--residual", "--solver", "adam", "--epochs",
                         self.size.epochs, "--patience", max(1, self.size.epochs // 10), "--stop", 0, "--one-scale",
                         "--quiet")
            take_at_mean(file, codes.astype(float))
            norm = self.gradient(file)["norm"]
            multiply(file, GRADIENT / norm)
            summary = json.loads(file.with_suffix(".json").read_text()) | {"gradient": norm}
            file.with_suffix(".json").write_text(json.dumps(summary))
        return file, json.loads(file.with_suffix(".json").read_text())

    def plain_accuracy(self, name: str) -> float:
        """Of a network that need not be convex, on the points of the classifier `name`."""
        file = self.folder / f"plain_{name}.json"
        if not file.is_file():
            points, labels = (np.load(self.folder / f"{name}_{kind}.npy") for kind in ("points", "labels"))
            file.write_text(json.dumps({"accuracy": plain.accuracy(points, labels, self.size.epochs)}))
        return json.loads(file.read_text())["accuracy"]

    def start(self, seed: int) -> Cloud:
        """Codes of `size.cloud` molecules with low QED whose decoding is valid and has a low QED, too."""
        file = self.folder / "start" / f"{seed}.npy"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            pool = self.test if self.dataset.start_from == "test" else self.train
            order = np.random.default_rng([3, seed]).permutation(len(pool))
            found: list[np.ndarray] = []
            for block in np.array_split(order, max(1, len(order) // 2000)):
                low = [p for p in ((pool[i], properties(pool[i])) for i in block)
                       if p[1] and p[1].qed < self.dataset.start_below]
                codes = self.coder.encode([s for s, _ in low])[0]
                decoded = [properties(s) for s in self.coder.decode(codes)]
                found += [c for c, p in zip(codes, decoded) if p and p.qed < self.dataset.start_below]
                if len(found) >= self.size.cloud:
                    break
            if len(found) < self.size.cloud:
                raise CannotRun(f"only {len(found)} molecules have a QED below {self.dataset.start_below}, also "
                                f"when decoded; {self.size.cloud} are needed: train the autoencoder longer")
            np.save(file, np.array(found[:self.size.cloud]))
        return self.decoded(file)

    def others(self, count: int, seed: int = 1) -> Path:
        """Codes of further molecules with low QED, none of them of the cloud of `seed`."""
        file = self.folder / "start" / f"others_{seed}_{count}.npy"
        if not file.is_file():
            pool = self.test if self.dataset.start_from == "test" else self.train
            # The cloud took the first of this order; the end of it is new.
            order = np.random.default_rng([3, seed]).permutation(len(pool))[::-1]
            found: list[str] = []
            for i in order:
                p = properties(pool[i])
                if p and p.qed < self.dataset.start_below:
                    found.append(pool[i])
                    if len(found) == count:
                        break
            np.save(file, self.coder.encode(found)[0])
        return file

    # --- flows and descents --------------------------------------------------------------------------------------

    def flow(self, case: Case, seed: int, potentials: tuple[Path, ...] = ()) -> Run:
        """A flow from the cloud of a seed, decoded every `size.every` steps; one that was cut off goes on."""
        folder = self.folder / "flows" / f"{case.name}-{seed}"
        start = self.start(seed)
        files = potentials or (self.classifier()[0],)
        settings = [f"cloud.path={start.file}", *(f"functional.{k}.path={f}" for k, f in enumerate(files))]
        settings += [f"flow.steps={self.size.steps}", f"output.every={self.size.every}", *case.settings,
                     *self.size.settings]
        result = self.brenier("run", CONFIGURATIONS / f"{case.config}.toml", "--out", folder, "--seed", seed, "--resume",
                              "--quiet", *(w for text in settings for w in ("--set", text)), allowed=(0, 1, 3))
        file = folder / "summary.json"
        summary = json.loads(file.read_text()) if file.is_file() else {}
        if summary.get("status") not in ("done", "unsolved"):  # the second has come to its end, and says which steps
            reason = summary.get("reason") or (result.stderr.strip().splitlines() or ["no message"])[-1]
            return Run(seed, failed=reason)
        with (folder / "history.csv").open() as lines:
            rows = list(csv.DictReader(lines))
        run = Run(seed, folder=folder, potential=(float(rows[0]["potential"]), float(rows[-1]["potential"])),
                  seconds=sum(float(row["seconds"] or 0) for row in rows))
        for step in range(0, self.size.steps + 1, self.size.every):
            run.clouds[step] = self.decoded(folder / "clouds" / f"step_{step:06d}.npy")
        run.end.sd = self.sd(start.file, run.end.file)
        return run

    def descents(self, seed: int, weights: tuple[float, ...], rates: tuple[float, ...],
                 methods: tuple[str, ...] = ("sgd", "adam")) -> dict[tuple[str, float, float], Run]:
        """Direct optimisation of the points from the cloud of a seed: by method, lambda_2 and rate."""
        folder = self.folder / "direct" / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        start = self.start(seed)
        result = {}
        for method in methods:
            for weight in weights:
                # One program a weight: what is done stays done.
                table = folder / f"{method}_{weight:g}.json"
                known = json.loads(table.read_text()) if table.is_file() else []
                missing = [r for r in rates if r not in [row["rate"] for row in known]]
                if missing:
                    text = self.call("bench/brenier_bench_molecules", "--cloud", start.file, "--potential",
                                     self.classifier()[0], "--methods", method, "--weights", f"{weight:g}", "--rates",
                                     ",".join(f"{r:g}" for r in missing), "--steps", self.size.descent_steps, "--out", folder,
                                     "--threads", self.threads).stdout
                    known += json.loads(text.splitlines()[-1])["direct"]
                    table.write_text(json.dumps(known))
                for row in known:
                    if row["rate"] not in rates:
                        continue
                    run = Run(seed, seconds=row["seconds"])
                    if "diverged_after" in row or "cloud" not in row:
                        run.failed = "diverged"
                    else:
                        run.potential = (math.nan, row["potential"])
                        run.clouds[self.size.descent_steps] = self.decoded(folder / row["cloud"])
                        run.end.sd = row["sd"]
                    result[method, weight, row["rate"]] = run
        return result

    def pushed(self, run: Run, points: Path) -> Cloud:
        """Other points through the maps of a run."""
        file = points.with_name(f"{points.stem}_through_{run.folder.name}.npy")
        if not file.is_file():
            self.brenier("push", run.folder, points, "--out", file)
        return self.decoded(file)

    def amortisation(self, run: Run) -> list[dict]:
        """Table 8: seconds of the maps of a run and of direct optimisation, on new molecules."""
        count = max(self.size.new)
        text = self.call("bench/brenier_bench_molecules", "--cloud", self.start(run.seed).file, "--potential",
                         self.classifier()[0], "--maps", run.folder / "maps", "--new", self.others(count), "--points",
                         ",".join(map(str, self.size.new)), "--steps", self.size.descent_steps, "--threads", self.threads).stdout
        return json.loads(text.splitlines()[-1])["amortisation"]

    # --- measurements --------------------------------------------------------------------------------------------

    def autoencoder(self) -> dict[str, float]:
        """Reconstruction and validity on held-out molecules, under noise and from the prior."""
        random = np.random.default_rng(4)
        chosen = random.permutation(len(self.test))[:self.size.measured]
        smiles = [self.test[i] for i in chosen]
        means, deviations = self.coder.encode(smiles)
        spread = means.std(axis=0)
        strings = self.coder.decode(means)
        result = {"molecules": len(smiles), "exact": float(np.mean([a == b for a, b in zip(smiles, strings)])),
                  "valid": share_valid(strings), "active": int(active(means).sum()),
                  "deviation": float(deviations[:, active(means)].mean())}
        for noise in (0.1, 0.2, 0.3, 0.5):
            moved = means + noise * spread * random.standard_normal(means.shape)
            result[f"noise_{noise}"] = share_valid(self.coder.decode(moved))
        result["prior"] = share_valid(self.coder.decode(random.standard_normal(means.shape)))
        greedy = self.coder.decode(means, 1)
        result["greedy_exact"] = float(np.mean([a == b for a, b in zip(smiles, greedy)]))
        result["greedy_valid"] = share_valid(greedy)
        return result

    def gradient(self, file: Path) -> dict[str, float]:
        """Where a classifier's gradient lies at the start: number of active coordinates and share of its square there."""
        moving = active(self.labelled()["codes"])
        power = np.mean(potential_gradient(file, np.load(self.start(1).file).astype(float))**2, axis=0)
        return {"active": int(moving.sum()), "share": float(power[moving].sum() / power.sum()),
                "norm": float(np.sqrt(power.sum()))}


def active(codes: np.ndarray) -> np.ndarray:
    """The coordinates of codes (N, d) that vary: deviation above 0.1, as against 1 of the prior."""
    return codes.std(axis=0) > 0.1


def revise(file: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Changes the arrays of a potential in its file."""
    from safetensors import safe_open  # pylint: disable=import-outside-toplevel
    from safetensors.numpy import load_file, save_file  # pylint: disable=import-outside-toplevel
    with safe_open(str(file), "np") as content:
        about = {name: value for name, value in (content.metadata() or {}).items() if name != "xxh64"}  # of other weights
    w = load_file(file)
    change(w)
    save_file(w, file, metadata=about)


def take_at_mean(file: Path, codes: np.ndarray) -> None:
    """Takes the potential in a file at the mean of the coordinates that do not vary, whatever their values."""
    quiet, mean = ~active(codes), codes.mean(axis=0)

    def change(w: dict[str, np.ndarray]) -> None:
        for name in [n for n in w if n.endswith("input.weight")]:
            bias = name.replace("input.weight", "bias")
            w[bias] = (w[bias] + (w[name][:, quiet] @ mean[quiet]).reshape(w[bias].shape)).astype(w[bias].dtype)
            w[name][:, quiet] = 0

    revise(file, change)


def multiply(file: Path, factor: float) -> None:
    """Multiplies the potential in a file."""
    def change(w: dict[str, np.ndarray]) -> None:
        for name in [n for n in w if n.startswith("output.")]:
            w[name] = (w[name] * factor).astype(w[name].dtype)

    revise(file, change)


def potential_gradient(file: Path, points: np.ndarray) -> np.ndarray:
    """Gradient of a residual convex network of `brenier fit` (softplus) at points (N, d)."""
    from safetensors.numpy import load_file  # pylint: disable=import-outside-toplevel
    w = {name: value.astype(float) for name, value in load_file(file).items()}

    def smooth(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.logaddexp(0, s), 0.5 * np.tanh(0.5 * s) + 0.5

    z, d = smooth(points @ w["layer0.input.weight"].T + w["layer0.bias"])
    slopes, layer = [(d, None)], 1
    while f"layer{layer}.inner.weight" in w:
        h, dh = smooth(z @ w[f"layer{layer}.inner.weight"].T + w[f"layer{layer}.inner.bias"])
        s = h @ w[f"layer{layer}.outer.weight"].T + w[f"layer{layer}.skip.scale"] * z
        z, d = smooth(s + points @ w[f"layer{layer}.input.weight"].T + w[f"layer{layer}.bias"])
        slopes.append((d, dh))
        layer += 1
    result = np.tile(w["output.input.weight"].reshape(1, -1), (len(points), 1))
    back = np.tile(w["output.hidden.weight"].reshape(1, -1), (len(points), 1))
    for k in range(layer - 1, -1, -1):
        d, dh = slopes[k]
        back = back * d
        result += back @ w[f"layer{k}.input.weight"]
        if k:
            back = ((back @ w[f"layer{k}.outer.weight"]) * dh) @ w[f"layer{k}.inner.weight"] \
                + back * w[f"layer{k}.skip.scale"]
    return result


def told(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
