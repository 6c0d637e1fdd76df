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

Decoding looks for the likeliest string by beam search: the `beams` likeliest beginnings are kept, until the likeliest of
all has come to its end, or LONGEST characters. With one beam it is greedy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

PAD, BEGIN, END = 0, 1, 2
VOCABULARY = "*^&" + "CcNnOoSsFBrlH[]()=#+-123456"
LONGEST = 64
BATCH = 2048
BEAMS = 4


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


def texts(written: np.ndarray) -> list[str]:
    """Strings of rows of indices, up to the end of each."""
    lines = []
    for row in written:
        stop = np.flatnonzero(row <= END)
        lines.append("".join(VOCABULARY[c] for c in (row[:stop[0]] if stop.size else row)))
    return lines


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

    def decode(self, latents: np.ndarray, beams: int = BEAMS) -> list[str]:
        """The strings at the points `latents` (n, d)."""
        latents = np.asarray(latents, np.float32)
        size = max(1, BATCH // beams)
        parts = (latents[start:start + size] for start in range(0, len(latents), size))
        return [s for part in parts for s in (self._greedy(part) if beams == 1 else self._search(part, beams))]

    def _search(self, latents: np.ndarray, beams: int) -> list[str]:
        w = self.weights
        n, size = len(latents), len(VOCABULARY)
        state = np.repeat(latents @ w["start.weight"].T + w["start.bias"], beams, axis=0)
        every = np.repeat(latents @ w["every.weight"].T, beams, axis=0)
        character = np.full(n * beams, BEGIN)
        written = np.full((n, beams, LONGEST), END, np.uint8)
        # Logarithms of probabilities. At first all beams are alike: one counts.
        score = np.full((n, beams), -np.inf, np.float32)
        score[:, 0] = 0
        result = np.full((n, LONGEST), END, np.uint8)
        alive = np.arange(n)
        for position in range(LONGEST):
            state = unit(w["decoder.table"][character] + every, w["decoder.recurrent"], w["decoder.bias"], state)
            output = state @ w["output.weight"].T + w["output.bias"]
            output -= output.max(axis=1, keepdims=True)
            output -= np.log(np.exp(output).sum(axis=1, keepdims=True))
            # A string that has come to its end stays what it is.
            output[(character <= END) & (position > 0)] = np.where(np.arange(size) == END, 0, -np.inf)
            total = (score[:, :, None] + output.reshape(len(alive), beams, size)).reshape(len(alive), -1)
            best = np.argpartition(-total, beams - 1, axis=1)[:, :beams]
            score = np.take_along_axis(total, best, axis=1)
            row = np.arange(len(alive))[:, None]
            written = written[row, best // size]
            written[:, :, position] = best % size
            state = state.reshape(len(alive), beams, -1)[row, best // size]
            # Probabilities only fall: where the likeliest string is at its end, no other will be likelier.
            first = score.argmax(axis=1)
            ended = (best % size)[row[:, 0], first] <= END
            result[alive] = written[row[:, 0], first]
            going = ~ended
            if not going.any():
                break
            alive, written, score, best = alive[going], written[going], score[going], best[going]
            every = every.reshape(len(going), beams, -1)[going].reshape(len(alive) * beams, -1)
            state = state[going].reshape(len(alive) * beams, -1)
            character = (best % size).ravel()
        return texts(result)

    def _greedy(self, latents: np.ndarray) -> list[str]:
        w = self.weights
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
        return texts(written)
