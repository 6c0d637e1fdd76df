# SPDX-License-Identifier: MIT
"""What RDKit says about strings: validity, drug-likeness (QED), logP, fingerprints, pictures."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem, DataStructs, RDLogger
from rdkit.Chem import Crippen, Draw, rdFingerprintGenerator
from rdkit.Chem.QED import qed

RDLogger.DisableLog("rdApp.*")
FINGERPRINTS = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


@dataclass(frozen=True)
class Properties:
    """Of one valid molecule. `qed` is nan where RDKit's QED raises."""

    canonical: str
    qed: float
    log_p: float


def share_valid(smiles: list[str]) -> float:
    """Share of strings that are molecules: `Decoded.validity` without the properties, which take ten times as long."""
    return sum(bool(s) and Chem.MolFromSmiles(s) is not None for s in smiles) / len(smiles)


@functools.lru_cache(maxsize=2_000_000)
def properties(smiles: str) -> Properties | None:
    """None where the string is no molecule: the empty string parses in RDKit, but is none."""
    molecule = Chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None or molecule.GetNumAtoms() == 0:
        return None
    try:
        value = float(qed(molecule))
    except Exception:  # pylint: disable=broad-exception-caught  # RDKit raises several kinds, some its own
        value = math.nan
    return Properties(Chem.MolToSmiles(molecule), value, float(Crippen.MolLogP(molecule)))


@dataclass(frozen=True)
class Decoded:
    """The strings of a cloud, and what they are."""

    smiles: list[str]
    found: list[Properties | None]

    @classmethod
    def of(cls, smiles: list[str]) -> "Decoded":
        """Looks at every string."""
        return cls(smiles, [properties(s) for s in smiles])

    @property
    def validity(self) -> float:
        """Share of strings that are molecules."""
        return sum(p is not None for p in self.found) / len(self.found)

    @property
    def uniqueness(self) -> float:
        """Share of different molecules (canonical strings) among the valid; 0 where none is."""
        valid = [p.canonical for p in self.found if p]
        return len(set(valid)) / len(valid) if valid else 0.0

    @property
    def qed(self) -> np.ndarray:
        """QED of all molecules that have one."""
        return np.array([p.qed for p in self.found if p and not math.isnan(p.qed)])

    @property
    def log_p(self) -> np.ndarray:
        """logP of all molecules."""
        return np.array([p.log_p for p in self.found if p])

    def row(self) -> dict[str, float]:
        """The numbers of the tables."""
        values = self.qed if self.qed.size else np.array([math.nan])
        return {"validity": self.validity, "uniqueness": self.uniqueness, "qed_median": float(np.median(values)),
                "qed_mean": float(values.mean()), "qed_deviation": float(values.std())}


def fingerprint(smiles: str) -> DataStructs.ExplicitBitVect | None:
    """Morgan fingerprint of radius 2, 2048 bits; None where the string is no molecule."""
    molecule = Chem.MolFromSmiles(smiles) if smiles else None
    return FINGERPRINTS.GetFingerprint(molecule) if molecule is not None else None


def kept(before: Decoded, after: Decoded) -> dict[str, float]:
    """How much of the molecules is left: share that is the same, Tanimoto similarity with the own start and the nearest."""
    same, own, nearest, found = 0, [], [], 0
    start = [fingerprint(s) for s in before.smiles]
    known = {p.canonical for p in before.found if p}
    for mine, p in zip(start, after.found):
        if p is None:
            continue
        found += 1
        same += p.canonical in known
        print_ = fingerprint(p.canonical)
        own.append(DataStructs.TanimotoSimilarity(mine, print_) if mine is not None else math.nan)
        nearest.append(max(DataStructs.BulkTanimotoSimilarity(print_, [f for f in start if f is not None])))
    if not found:
        return {"same": 0.0, "similarity": math.nan, "nearest": math.nan}
    return {"same": same / found, "similarity": float(np.nanmean(own)), "nearest": float(np.mean(nearest))}


def picture(before: Decoded, after: Decoded, path: Path, count: int = 8) -> int:
    """A grid of `count` molecules that changed: start, end, the start molecule nearest to the end. How many there are."""
    start = [fingerprint(s) for s in before.smiles]
    chosen = [i for i, (a, b) in enumerate(zip(before.found, after.found)) if a and b and a.canonical != b.canonical]
    # The largest gains among the changed ones would flatter: every so manyth.
    chosen = chosen[::max(1, len(chosen) // count)][:count]
    molecules, legends = [], []
    for i in chosen:
        end = fingerprint(after.found[i].canonical)
        near = int(np.argmax([DataStructs.TanimotoSimilarity(f, end) if f is not None else -1 for f in start]))
        for word, p in (("start", before.found[i]), ("end", after.found[i]), ("nearest start", before.found[near])):
            molecules.append(Chem.MolFromSmiles(p.canonical))
            legends.append(f"{word}: QED {p.qed:.2f}, logP {p.log_p:.1f}")
    if molecules:
        image = Draw.MolsToGridImage(molecules, molsPerRow=3, subImgSize=(300, 200), legends=legends)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(str(path))
    return len(chosen)
