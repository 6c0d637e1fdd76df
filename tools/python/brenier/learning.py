# SPDX-License-Identifier: MIT
"""Training of convex potentials on labelled points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from . import _core
from ._core import BadValue
from .arrays import points, vector
from .networks import Potential


def described(rows: list[tuple[str, str, str, str]]) -> str:
    """Options for a docstring: (name, values, default, meaning) of each."""
    return "\n".join(f"    {name} ({values}{'; ' + fallback if fallback else ''}): {meaning}"
                     for name, values, fallback, meaning in rows)


@dataclass
class FitResult:
    """What `fit` gives."""

    potential: Potential
    history: list[dict[str, Any]]  # of each epoch: epoch, rate, train_loss, validation_loss
    best_epoch: int
    train: dict[str, Any]  # count, loss, and accuracy and confusion[label][prediction], or r2; likewise
    validation: dict[str, Any]
    test: dict[str, Any]
    interrupted: bool
    seconds: float

    def __repr__(self) -> str:
        name = "r2" if "r2" in self.test else "accuracy"
        return (f"<brenier.FitResult after {len(self.history)} epochs: test loss {self.test['loss']:.4g}, "
                f"{name} {self.test[name]:.4g}; {self.potential!r}>")


def fit(x: Any, labels: Any, *, precision: str = "float", callback: Callable[[dict[str, Any]], Any] | None = None,
        progress: bool = False, **options: Any) -> FitResult:
    """Trains a convex potential V on points x (N, d) with labels (N,).

    Labels 0 and 1 (loss="binary", the default) make V the logit of a classifier; with loss="squared" V is a regression.
    precision: "float" or "double", of the training. callback(epoch): after every epoch, with its numbers; the training ends
    with what it has where that returns something true. The same seed gives the same bits, on any number of threads.

    Further options by name, as of `brenier fit`:

    """
    if precision not in ("float", "double"):
        raise BadValue(f'precision = {precision!r}; it must be "float" or "double"')
    x = points(x)
    labels = vector(labels, "labels", len(x))

    def after(epoch: dict[str, Any]) -> Any:
        if progress:
            print(f"epoch {epoch['epoch']}: loss {epoch['train_loss']:.4g}, validation {epoch['validation_loss']:.4g}",
                  flush=True)
        return callback(epoch) if callback else False

    found = _core.fit(x, labels, precision, after if callback or progress else None, options)
    return FitResult(**{**found, "potential": Potential(found["potential"])})


if fit.__doc__:
    fit.__doc__ = fit.__doc__.rstrip() + "\n\n" + described(_core.fit_option_rows()) + "\n"
