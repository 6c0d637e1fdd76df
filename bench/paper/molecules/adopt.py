#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Weights to begin a training with, from those of a public recurrent autoencoder (128 units, no noise).

    adopt.py --from sma_gru128_moses.json --molecules train.csv.gz --decoder 256 --both-ways --out begin.safetensors

That autoencoder's latent point is its encoder's last state after it has read padding up to a fixed length, and its
decoder's first state. Here the mean is a linear map of the state at the end of the string (least squares: it explains
99.3 % of the variance), turned into principal components of variance one; the decoder begins with the inverse. New
units of the decoder feed nothing back at first, and neither does a backward encoder, so that training starts at what
the public one can do. The weights are under the licence that lies beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from autoencoder import VOCABULARY, tokens_of, unit  # pylint: disable=wrong-import-position
from data import smiles_of  # pylint: disable=wrong-import-position

FLOOR = 1e-5  # of the variance of a component


def read(manifest: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Manifest and tensors."""
    about = json.loads(manifest.read_text())
    raw = np.fromfile(manifest.with_suffix(".f32"), "<f4")
    tensors = {}
    for entry in about["tensors"]:
        size = int(np.prod(entry["shape"]))
        tensors[entry["name"]] = raw[entry["offset_floats"]:entry["offset_floats"] + size].reshape(entry["shape"])
    return about, tensors


def folded(tensors: dict[str, np.ndarray], side: str, rows: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Table of our characters, recurrent matrix and inner bias of a unit in PyTorch's layout."""
    recurrent = tensors[f"{side}.rnn.weight_hh_l0"].T
    table = (tensors[f"{side}.rnn.weight_ih_l0"].T + tensors[f"{side}.rnn.bias_ih_l0"])[rows]
    bias = tensors[f"{side}.rnn.bias_hh_l0"]
    size = recurrent.shape[0]
    table[:, :2 * size] += bias[:2 * size]
    return table, recurrent, bias[2 * size:]


def widened(matrix: np.ndarray, old: int, new: int) -> np.ndarray:
    """Columns of three gates of `old` units placed among those of `new` units; zeros elsewhere."""
    result = np.zeros((matrix.shape[0], 3 * new), np.float32)
    for gate in range(3):
        result[:, gate * new:gate * new + old] = matrix[:, gate * old:(gate + 1) * old]
    return result


def last_states(strings: list[np.ndarray], table, recurrent, bias, steps: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """States at the end of the strings and after padding to `steps`."""
    lengths = np.array([len(s) for s in strings])
    block = np.full((len(strings), steps), pad)
    for row, s in zip(block, strings):
        row[:len(s)] = s
    state = np.zeros((len(strings), bias.size), np.float32)
    ends = np.zeros_like(state)
    for t in range(steps):
        state = unit(table[block[:, t]], recurrent, bias, state)
        ends[lengths == t + 1] = state[lengths == t + 1]
    return ends, state


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="manifest of the public weights")
    parser.add_argument("--molecules", type=Path, required=True, help="molecules to see the latent points of")
    parser.add_argument("--decoder", type=int, default=256, help="units of the decoder (default 256)")
    parser.add_argument("--both-ways", action="store_true", help="with a backward encoder")
    parser.add_argument("--count", type=int, default=10000, help="molecules to look at (default 10000)")
    parser.add_argument("--out", type=Path, required=True, help="the weights")
    options = parser.parse_args()
    from safetensors.numpy import save_file  # pylint: disable=import-outside-toplevel
    random = np.random.default_rng(1)
    about, tensors = read(options.source)
    # A character they do not have begins as their unknown one.
    theirs = [about["vocab"].index(c if c in about["vocab"] else "?") for c in VOCABULARY]
    table, recurrent, bias = folded(tensors, "encoder", theirs)
    smiles = smiles_of(options.molecules)
    strings = [tokens_of(smiles[i]) for i in random.choice(len(smiles), options.count, replace=False)]
    ends, latents = last_states(strings, table, recurrent, bias, about["encoder_steps"], about["pad"])
    # latents = ends slope + shift, then components.
    design = np.c_[ends, np.ones(len(ends))].astype(float)
    solution = np.linalg.lstsq(design, latents.astype(float), rcond=1e-6)[0]
    centre = latents.mean(0)
    values, vectors = np.linalg.eigh(np.cov(latents.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    scale = np.sqrt(np.maximum(values, 0) + FLOOR)
    size, wide, latent = bias.size, options.decoder, latents.shape[1]
    weights = {"encoder.table": table, "encoder.recurrent": recurrent, "encoder.bias": bias}
    forward = (solution[:-1] @ vectors / scale).T
    weights |= {"mean.weight": forward, "mean.bias": (solution[-1] - centre) @ vectors / scale}
    weights |= {"deviation.weight": np.zeros_like(forward), "deviation.bias": np.full(latent, -4.0)}
    if options.both_ways:
        blocks = [np.linalg.qr(random.standard_normal((size, size)))[0] for _ in range(3)]
        weights |= {"encoder_back.table": 0.3 * random.standard_normal(table.shape), "encoder_back.bias": np.zeros(size),
                    "encoder_back.recurrent": np.concatenate(blocks, 1)}
        for name in ("mean.weight", "deviation.weight"):
            weights[name] = np.concatenate([weights[name], np.zeros_like(forward)], 1)
    # The decoder: their units first.
    table, recurrent, bias = folded(tensors, "decoder", theirs)
    rest = wide - size
    new = np.concatenate([np.arange(gate * wide + size, (gate + 1) * wide) for gate in range(3)])
    table, square = widened(table, size, wide), np.zeros((wide, 3 * wide), np.float32)
    square[:size] = widened(recurrent, size, wide)
    table[:, new] = 0.3 * random.standard_normal((len(VOCABULARY), 3 * rest))
    square[:size, new] = random.standard_normal((size, 3 * rest)) / np.sqrt(wide)
    every = np.zeros((3 * wide, latent), np.float32)
    if rest > 0:
        square[size:, new] = np.concatenate([np.linalg.qr(random.standard_normal((rest, rest)))[0] for _ in range(3)], 1)
        every[new] = 0.3 * random.standard_normal((3 * rest, latent)) / np.sqrt(latent)
    start = np.concatenate([vectors * scale, random.standard_normal((rest, latent)) / np.sqrt(latent) * 0.3])
    weights |= {"decoder.table": table, "decoder.recurrent": square, "decoder.bias": np.r_[bias, np.zeros(rest)],
                "every.weight": every, "start.weight": start, "start.bias": np.r_[centre, np.zeros(rest)]}
    output = np.concatenate([tensors["decoder.fc.weight"][theirs], np.zeros((len(VOCABULARY), rest))], 1)
    weights |= {"output.weight": output, "output.bias": tensors["decoder.fc.bias"][theirs]}
    save_file({name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
