#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks what the shared libraries show: the C interface, and what the installed headers declare; nothing of how it is made.

    check_symbols.py NM FOLDER      with libbrenier.so in FOLDER, and libbrenier_mpi.so where there is MPI
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SHOWN = re.compile(r"^(?:brenier_\w+$|(?:(?:typeinfo|typeinfo name|vtable) for )?brenier::)")
# Rooms, and other people's code, also as arguments of ours; and private parts, which may be arguments of a constructor.
INSIDE = re.compile(r"\b(?:nlohmann|Eigen|toml)::|brenier::(?:cpu|ref|cuda|dense|app)::|^[^(]*::(?:State|Impl|Workers)(?:::|\b)")
RETURNS = re.compile(r"^[^()]*?(?=brenier::[\w:]+<)")  # what a function template returns stands before its name


def wrong(listing: str) -> list[str]:
    """The symbols, as `nm --demangle` lists them, that are not to be seen."""
    names = [line.split(" ", 2)[2] for line in listing.splitlines() if line.count(" ") >= 2]
    return [name for name in names if not SHOWN.match(RETURNS.sub("", name)) or INSIDE.search(name)]


def self_test() -> None:
    """Planted symbols are found, and nothing else."""
    good = "0 T brenier_version\n0 T brenier::Flow<float>::step()\n0 V typeinfo for brenier::Error\n"
    good += "0 W std::vector<int> brenier::fit<float>(int)\n0 T brenier::Density::Density(std::shared_ptr<brenier::Density::Impl const>)\n"
    assert wrong(good) == []
    for bad in ("std::vector<int>::push_back(int)", "nlohmann::json::dump()", "brenier::cpu::table()", "x",
                "brenier::Flow<float>::State::take()", "brenier::f(Eigen::Map<int>)"):
        assert wrong(good + f"0 W {bad}\n") == [bad], bad


def main() -> None:
    self_test()
    nm, folder = sys.argv[1:]
    failed = False
    for library in (Path(folder) / "libbrenier.so", Path(folder) / "libbrenier_mpi.so"):
        if library.name == "libbrenier_mpi.so" and not library.exists():
            continue
        listing = subprocess.run([nm, "--dynamic", "--defined-only", "--demangle", library], capture_output=True, text=True,
                                 check=True)
        count, found = len(listing.stdout.splitlines()), wrong(listing.stdout)
        print("\n".join(found) or f"{library.name}: {count} symbols, all of the interface")
        failed |= bool(found) or count == 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
