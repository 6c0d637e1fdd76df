# SPDX-License-Identifier: MIT
"""Wasserstein gradient flows by the JKO scheme with input-convex neural networks.

Points are arrays (N, d) of doubles, or (N,) on the line, of NumPy or of anything with DLPack; log-densities are natural
logarithms (N,). Times are those of the equation. Start with `Flow`.
"""

from . import _core
from ._core import (BadValue, ConfigError, DeviceError, Error, IoError, NotAvailable, NumericalError, OutOfDeviceMemory,
                    ParseError, ShapeError)
from .densities import Density
from .distances import distance
from .flows import Flow
from .functionals import (Functional, energy_distance, entropy, gaussian_mixture, interaction, internal, learned_potential, mmd,
                          porous_medium, potential, sinkhorn)
from .learning import FitResult, fit
from .networks import Map, Potential, read_map
from .runs import Run, read_run

__version__ = _core.version
__all__ = ["BadValue", "ConfigError", "Density", "DeviceError", "Error", "FitResult", "Flow", "Functional", "IoError", "Map",
           "NotAvailable", "NumericalError", "OutOfDeviceMemory", "ParseError", "Potential", "Run", "ShapeError",
           "__version__", "distance", "energy_distance", "entropy", "fit", "gaussian_mixture", "interaction", "internal", "learned_potential", "mmd",
           "porous_medium", "potential", "read_map", "read_run", "sinkhorn"]
