# SPDX-License-Identifier: MIT
"""A variational autoencoder of SMILES strings, as it is used: encode and decode with numpy alone.

Weights are a .safetensors file that train.py writes. With V characters, E units of the encoder, H of the decoder, d the
latent dimension, gates in the order r, z, n:

    encoder.table (V, 3E)   encoder.recurrent (E, 3E)   encoder.bias (E,)         and encoder_back.* of the reversed string
    mean.weight (d, E or 2E)   mean.bias (d,)   deviation.weight, deviation.bias likewise: log of the variance
    start.weight (H, d)   start.bias (H,)   every.weight (3H, d)
    decoder.table (V, 3H)   decoder.recurrent (H, 3H)   decoder.bias (H,)         output.weight (V, H)   output.bias (V,)

A gated recurrent unit with state h and character c, x = table[c] + every.weight latent (the latter in the decoder only):

    [a_r, a_z, a_n] = h recurrent   r = s(x_r + a_r)   z = s(x_z + a_z)   n = tanh(x_n + r (a_n + bias))
    h' = n + z (h - n)

Decoding is greedy: the character of the largest output, until the end or LONGEST characters.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

PAD, BEGIN, END = 0, 1, 2
VOCABULARY = "*^&" + "CcNnOoSsFBrlH[]()=#+-123456"
LONGEST = 64
BATCH = 2048


def tokens_of(smiles: str) -> np.ndarray:
    """The string as indices, with its begin and end. Raises ValueError at a character that is not in VOCABULARY."""
    indices = [VOCABULARY.find(c, 3) for c in smiles]
    if min(indices, default=0) < 0:
        raise ValueError(f"no character {smiles[indices.index(-1)]!r} in the vocabulary ({smiles})")
    return np.array([BEGIN, *indices, END], np.uint8)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5


def unit(inputs: np.ndarray, recurrent: np.ndarray, bias: np.ndarray, state: np.ndarray) -> np.ndarray:
    """One step of a gated recurrent unit: inputs (n, 3H), state (n, H)."""
    size = state.shape[1]
    gates = state @ recurrent
    rz = sigmoid(inputs[:, :2 * size] + gates[:, :2 * size])
    new = np.tanh(inputs[:, 2 * size:] + rz[:, :size] * (gates[:, 2 * size:] + bias))
    return new + rz[:, size:] * (state - new)


class Autoencoder:
    """Encoder and decoder; `weights`: arrays by name, any float type, computed with in float32."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
        self.latent = self.weights["mean.bias"].size

    @classmethod
    def load(cls, path: Path) -> "Autoencoder":
        """From a .safetensors file."""
        from safetensors.numpy import load_file  # pylint: disable=import-outside-toplevel
        return cls(load_file(path))

    def encode(self, smiles: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the posteriors, each (n, d)."""
        w = self.weights
        strings = [tokens_of(s) for s in smiles]
        lengths = np.array([len(s) for s in strings])
        means = np.empty((len(smiles), self.latent), np.float32)
        deviations = np.empty_like(means)
        for length in np.unique(lengths):
            # Strings of one length at a time: nothing is padded.
            chosen = np.flatnonzero(lengths == length)
            for part in np.array_split(chosen, -(-len(chosen) // BATCH)):
                block = np.stack([strings[i] for i in part])
                ends = []
                for name, order in (("encoder", 1), ("encoder_back", -1)):
                    if f"{name}.table" not in w:
                        continue
                    state = np.zeros((len(part), w[f"{name}.bias"].size), np.float32)
                    for column in block.T[::order]:
                        state = unit(w[f"{name}.table"][column], w[f"{name}.recurrent"], w[f"{name}.bias"], state)
                    ends.append(state)
                state = np.concatenate(ends, axis=1)
                means[part] = state @ w["mean.weight"].T + w["mean.bias"]
                deviations[part] = np.exp(0.5 * (state @ w["deviation.weight"].T + w["deviation.bias"]))
        return means, deviations

    def decode(self, latents: np.ndarray) -> list[str]:
        """The strings at the points `latents` (n, d)."""
        return [s for start in range(0, len(latents), BATCH) for s in self._decode(latents[start:start + BATCH])]

    def _decode(self, latents: np.ndarray) -> list[str]:
        w = self.weights
        latents = np.asarray(latents, np.float32)
        state = latents @ w["start.weight"].T + w["start.bias"]
        every = latents @ w["every.weight"].T
        character = np.full(len(latents), BEGIN)
        written = np.full((len(latents), LONGEST), END)
        alive = np.arange(len(latents))
        for position in range(LONGEST):
            state = unit(w["decoder.table"][character] + every, w["decoder.recurrent"], w["decoder.bias"], state)
            character = (state @ w["output.weight"].T + w["output.bias"]).argmax(axis=1)
            written[alive, position] = character
            going = character > END
            if not going.any():
                break
            if going.mean() < 0.9:
                # Finished strings are dropped now and then, not at every step: that would cost a copy.
                alive, state, every, character = alive[going], state[going], every[going], character[going]
            else:
                character = np.where(going, character, END)
        lines = []
        for row in written:
            stop = np.flatnonzero(row <= END)
            lines.append("".join(VOCABULARY[c] for c in (row[:stop[0]] if stop.size else row)))
        return lines
