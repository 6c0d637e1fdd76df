# SPDX-License-Identifier: MIT
"""What pictures of a run have in common: where particles are drawn, how dense they are, and what the flow goes toward."""

import contextlib
import errno
import json
import os
import sys
from pathlib import Path

import numpy as np

DENSITIES = 1e-4  # of the peak: the lowest density that has a colour of its own
MOST_POINTS = 5000


if hasattr(sys.stdout, "reconfigure"):  # names of files are bytes, of which not all are UTF-8
    sys.stdout.reconfigure(errors="surrogateescape")


class CannotWrite(SystemExit):
    """Says what cannot be written, and ends with the exit code that the command has for that: 75 on a full disk, 2 for a
    path that cannot be, 74 otherwise."""

    FULL = (errno.ENOSPC, errno.EDQUOT)
    PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ELOOP,
            errno.ENAMETOOLONG)

    def __init__(self, what, error, remedy):
        full = error.errno in self.FULL
        super().__init__(75 if full else 2 if error.errno in self.PATH else 74)
        self.message = f"{what} cannot be written: {error}; {'make room, or ' if full else ''}{remedy}"
        print(self.message, file=sys.stderr)

    def __str__(self):
        return self.message


@contextlib.contextmanager
def whole_file(path):
    """A name beside `path` to write to, which becomes `path` at the end: what is being looked at is never half a file.
    Otherwise nothing is left of it, as far as the folder lets it be removed."""
    partial = path.with_name(f".partial.{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


class View:
    """A square of the plane that holds all clouds: their two coordinates, or the principal axes of the last cloud."""

    def __init__(self, clouds):
        last = clouds[-1]
        self.axes, self.centre = np.eye(last.shape[1])[:, :2], np.zeros(last.shape[1])
        self.names = ("x[0]", "x[1]")
        if last.shape[1] > 2:
            self.centre = last.mean(axis=0)
            self.axes = np.linalg.svd(last - self.centre, full_matrices=False)[2][:2].T
            self.names = ("first principal axis", "second principal axis")
        placed = [self.place(cloud) for cloud in clouds]
        low = np.min([points.min(axis=0) for points in placed], axis=0)
        high = np.max([points.max(axis=0) for points in placed], axis=0)
        half = 0.53 * max((high - low).max(), 1e-12)
        self.limits = np.stack([0.5 * (low + high) - half, 0.5 * (low + high) + half], axis=1)

    def place(self, points):
        return (points - self.centre) @ self.axes


def interval(clouds):
    """Limits on the line that hold all clouds, with a margin."""
    low, high = min(x.min() for x in clouds), max(x.max() for x in clouds)
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin


def peak_of(log_densities):
    """The largest log-density of all, or None where none is known."""
    known = [values[np.isfinite(values)] for values in log_densities if values is not None]
    return max((float(values.max()) for values in known if len(values)), default=None)


def shade(log_density, peak):
    """Places on the colour scale, 0 to 1; 0 where a density is not known."""
    return np.where(np.isfinite(log_density), 1 - (peak - log_density) / -np.log(DENSITIES), 0).clip(0, 1)


def thinned(points, most=MOST_POINTS):
    return points[:: -(-len(points) // most)]


class Mixture:
    """A law that is a mixture of Gaussians, whose marginals are mixtures as well."""

    def __init__(self, means, variances, weights):
        self.means = np.array(means, dtype=float)
        self.variances = np.broadcast_to(np.asarray(variances, dtype=float), len(self.means))
        weights = np.ones(len(self.means)) if weights is None else np.array(weights, dtype=float)
        self.weights = weights / weights.sum()

    def on_line(self, x, axis=0):
        """The density of one coordinate."""
        z = (x[:, None] - self.means[None, :, axis]) ** 2 / (2 * self.variances)
        return (np.exp(-z) / np.sqrt(2 * np.pi * self.variances)) @ self.weights

    def in_plane(self, view, x, y):
        """The density in a view, at the places (x[j], y[i])."""
        means = view.place(self.means)
        squares = (x[None, :, None] - means[:, 0]) ** 2 + (y[:, None, None] - means[:, 1]) ** 2
        return (np.exp(-squares / (2 * self.variances)) / (2 * np.pi * self.variances)) @ self.weights

    def contours(self, view, count=121):
        """Arguments of a contour plot."""
        x, y = (np.linspace(low, high, count) for low, high in view.limits)
        values = self.in_plane(view, x, y)
        return x, y, values, values.max() * np.array([0.01, 0.03, 0.1, 0.3, 0.6])


class Target:
    """What a flow goes toward, where its terms name it: the points of distances, and a mixture of Gaussians whose entropy is in F
    with the same weight."""

    def __init__(self, run):
        self.clouds, self.mixture = [], None
        terms = []
        while f"functional.{len(terms)}.term" in run.settings:
            terms.append(lambda key, k=len(terms): value_of(run.settings.get(f"functional.{k}.{key}")))
        for term in terms:
            reference = term("reference")
            if isinstance(reference, str) and reference != "initial":
                self.clouds += points_if_there(reference, run.dim)
        by_name = {term("term"): term for term in terms}
        if len(terms) == 2 and by_name.keys() == {"gaussian_mixture", "entropy"} and \
                by_name["gaussian_mixture"]("weight") == by_name["entropy"]("weight"):
            term = by_name["gaussian_mixture"]
            means = term("means")
            found = points_if_there(means, run.dim) if isinstance(means, str) else [np.reshape(means, (-1, run.dim))]
            weights = term("weights")
            if found:
                self.mixture = Mixture(found[0], term("variances") or 1.0, weights if isinstance(weights, list) else None)


def value_of(text):
    """A value of a configuration, as it is written there; None where it is not there."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def points_if_there(path, dim):
    """The points of a file in a list, which is empty where they cannot be had: a picture without them is better than none."""
    try:
        points = read_points(path)
        if points.shape[1] != dim:
            raise ValueError(f"its shape is {points.shape}")
        return [points]
    except (OSError, ValueError) as error:
        print(f"the points of {path} are left out: {error}", file=sys.stderr)
        return []


def read_points(path):
    """A cloud in any file that the command reads: .npy, .npz, or a table as text."""
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x93NUMPY"):
        points = np.load(path, allow_pickle=False)
    elif start.startswith(b"PK"):
        with np.load(path, allow_pickle=False) as arrays:
            points = arrays["x" if "x" in arrays else arrays.files[0]]
    else:
        rows = []
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            cells = line.split("#")[0].translate(str.maketrans(",;\t", "   ")).split()
            try:
                rows.append([float(cell) for cell in cells])
            except ValueError:
                if rows:
                    raise
        points = np.array([row for row in rows if row])
    points = np.asarray(points, dtype=float)
    return points.reshape(len(points), -1)
