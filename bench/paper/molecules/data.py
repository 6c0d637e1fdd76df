# SPDX-License-Identifier: MIT
"""The molecules: official sets of MOSES and QM9.

MOSES lies in the Python package molsets 0.3.1 (MIT), QM9 in qm9pack 1.0.3; both are fetched without what they depend
on, checked against their sums and kept as DATASET_train.txt.gz and DATASET_test.txt.gz, a string a line.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {"moses": "molsets==0.3.1", "qm9": "qm9pack==1.0.3"}
SUMS = {
    "moses/dataset/data/train.csv.gz": "786f0313aa6b9ba5514df685f885742a70ea8d86f1a4fa48115f7f80a634265c",
    "moses/dataset/data/test.csv.gz": "f896fbf3764f88d94670b9959e5872c600c12152a18233823e820761b7a791b2",
    "qm9pack-1.0.3-py3-none-any.whl": "1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0",
}
QM9_TEST = 0.1  # share of QM9, as in the paper: 121k and 13k


class CannotRun(Exception):
    """A program, a package or a file is missing or not what it should be; the message says which and what to do."""


def smiles_of(path: Path) -> list[str]:
    """First column of a .csv.gz file with a header SMILES, or the lines of a .txt.gz file."""
    with gzip.open(path, "rt") as lines:
        words = [line.split(",")[0].strip() for line in lines]
    return words[1:] if words[0] == "SMILES" else words


def checked(content: bytes, name: str) -> bytes:
    """The content, whose SHA-256 must be that of `name`. Raises CannotRun."""
    found = hashlib.sha256(content).hexdigest()
    if found != SUMS[name]:
        raise CannotRun(f"{name} has the sum {found}, not {SUMS[name]}; fetch the package anew")
    return content


def wheel(dataset: str, folder: Path) -> zipfile.ZipFile:
    """The package of a data set, by pip."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--retries", "1", "--timeout", "30", "--dest", str(folder), PACKAGES[dataset]]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    files = list(folder.glob("*.whl"))
    if result.returncode != 0 or not files:
        message = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise CannotRun(f"{PACKAGES[dataset]} cannot be fetched: {message}")
    return zipfile.ZipFile(files[0])


def sets(dataset: str, folder: Path) -> tuple[list[str], list[str]]:
    """Training and test molecules; fetched where they are not in the folder yet. Raises CannotRun."""
    files = [folder / f"{dataset}_{part}.txt.gz" for part in ("train", "test")]
    if not all(file.is_file() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place, wheel(dataset, Path(place)) as package:
            parts = moses(package) if dataset == "moses" else qm9(package)
        for file, part in zip(files, parts):
            content = gzip.compress("".join(f"{line}\n" for line in part).encode(), mtime=0)
            temporary = file.with_name(file.name + ".part")
            temporary.write_bytes(content)
            temporary.replace(file)
    return smiles_of(files[0]), smiles_of(files[1])


def moses(package: zipfile.ZipFile) -> tuple[list[str], list[str]]:
    """The official training and test sets: 1,584,663 and 176,074 molecules."""
    result = []
    for part in ("train", "test"):
        name = f"moses/dataset/data/{part}.csv.gz"
        text = gzip.decompress(checked(package.read(name), name)).decode()
        result.append([line.split(",")[0] for line in text.split()[1:]])
    return result[0], result[1]


def qm9(package: zipfile.ZipFile) -> tuple[list[str], list[str]]:
    """A random tenth is the test set; 130,831 molecules in all."""
    path = Path(str(package.filename))
    checked(path.read_bytes(), path.name)
    csv.field_size_limit(2**30)
    found = []
    for part in (1, 2, 3):
        with package.open(f"qm9pack/data/qm9_part{part}.csv") as file:
            found += [row["SMILES"] for row in csv.DictReader(io.TextIOWrapper(file))]
    random.Random(0).shuffle(found)
    count = round(QM9_TEST * len(found))
    return found[count:], found[:count]
