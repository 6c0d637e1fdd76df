#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that code for one instruction set stays among itself.

The variants of the cpu backend are compiled with flags of their own (-mavx512f, ...). What they define must belong to
their namespace, brenier::cpu::VARIANT: of an inline function that is shared with the rest of the library, the linker keeps
one copy, and if that were the variant's, every processor without its instructions would end there.

    check_isa.py NM libbrenier.a VARIANT...
"""

from __future__ import annotations

import re
import subprocess
import sys

# Code that others can see, and may be taken for theirs: global or weak, and defined here. Data has no instructions:
# what the compiler says of types (V), constants.
DEFINED = re.compile(r"^[0-9a-f]+ ([TW]) (.*)$")


def foreign(symbols: str, variant: str) -> list[str]:
    """The defined symbols, as `nm --demangle` lists them, that are not of the variant."""
    found = [match.groups() for line in symbols.splitlines() if (match := DEFINED.match(line))]
    return [f"{kind} {name}" for kind, name in found if f"{variant}::" not in name]


def members(listing: str) -> dict[str, str]:
    """What `nm` says of each member of an archive."""
    parts = re.split(r"^(?:.*\()?([\w.]+\.o)\)?:$", listing, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def self_test() -> None:
    """Planted symbols are found, and nothing else."""
    good = "\nisa_v.cpp.o:\n0000000000000000 W brenier::cpu::v::Tile<float>::forward()\n0000000000000010 t helper()\n"
    good += "                 U memcpy\n0000000000000000 V DW.ref.__gxx_personality_v0\n0000000000000000 V typeinfo for brenier::Step\n"
    bad = "0000000000000000 W brenier::AdamStep<float>::update(float&) const\n"
    assert foreign(members(good)["isa_v.cpp.o"], "v") == []
    assert foreign(members(good + bad)["isa_v.cpp.o"], "v") == [bad[17:].strip()]


def main() -> None:
    self_test()
    nm, library, *variants = sys.argv[1:]
    listing = members(subprocess.run([nm, "--demangle", library], capture_output=True, text=True, check=True).stdout)
    failures = [
        f"isa_{variant}: {symbol}" for variant in variants for symbol in foreign(listing[f"isa_{variant}.cpp.o"], variant)
    ]
    for failure in failures:
        print(f"{failure}\n    shared with sources that have other flags: make it always inline, or give it the variant's types")
    print("what the variants define is theirs" if not failures else f"{len(failures)} symbols are not")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
