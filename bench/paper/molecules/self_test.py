#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks what needs no weights and no molecules: strings and characters, the recurrent unit, the gradient of a potential."""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
# pylint: disable=wrong-import-position
from autoencoder import BEGIN, END, LONGEST, VOCABULARY, Autoencoder, tokens_of, unit
from chemistry import Decoded, kept
from experiment import multiply, potential_gradient, take_at_mean
from plain import Network, accuracy


def random_weights(encoder: int, decoder: int, latent: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Of a small autoencoder that reads both ways."""
    v = len(VOCABULARY)
    shapes = {"encoder.table": (v, 3 * encoder), "encoder.recurrent": (encoder, 3 * encoder), "encoder.bias": (encoder,)}
    shapes |= {name.replace("encoder", "encoder_back"): shape for name, shape in shapes.items()}
    shapes |= {"mean.weight": (latent, 2 * encoder), "mean.bias": (latent,), "deviation.weight": (latent, 2 * encoder),
               "deviation.bias": (latent,), "start.weight": (decoder, latent), "start.bias": (decoder,),
               "every.weight": (3 * decoder, latent), "decoder.table": (v, 3 * decoder),
               "decoder.recurrent": (decoder, 3 * decoder), "decoder.bias": (decoder,), "output.weight": (v, decoder),
               "output.bias": (v,)}
    return {name: random.standard_normal(shape) * 0.5 for name, shape in shapes.items()}


def check_unit(random: np.random.Generator) -> None:
    """The vectorised step against the formula, a number at a time."""
    n, size = 3, 4
    inputs, recurrent = random.standard_normal((n, 3 * size)), random.standard_normal((size, 3 * size))
    bias, state = random.standard_normal(size), random.standard_normal((n, size))
    found = unit(inputs, recurrent, bias, state)
    for i in range(n):
        for k in range(size):
            gates = [sum(state[i, m] * recurrent[m, g * size + k] for m in range(size)) for g in range(3)]
            r, z = (1 / (1 + math.exp(-inputs[i, g * size + k] - gates[g])) for g in range(2))
            new = math.tanh(inputs[i, 2 * size + k] + r * (gates[2] + bias[k]))
            assert abs(found[i, k] - ((1 - z) * new + z * state[i, k])) < 1e-12


def searched(coder: Autoencoder, latent: np.ndarray, beams: int) -> str:
    """Beam search a beginning at a time: (its logarithmic probability, its characters, state)."""
    w = coder.weights
    latent = latent[None].astype(np.float32)
    every = latent @ w["every.weight"].T
    kept_ = [(0.0, [], latent @ w["start.weight"].T + w["start.bias"])]
    for _ in range(LONGEST):
        found = []
        for score, string, state in kept_:
            if string and string[-1] <= END:
                found.append((score, string, state))
                continue
            inputs = w["decoder.table"][[string[-1] if string else BEGIN]] + every
            after = unit(inputs, w["decoder.recurrent"], w["decoder.bias"], state)
            output = (after @ w["output.weight"].T + w["output.bias"])[0].astype(float)
            logs = output - np.logaddexp.reduce(output)
            found += [(score + logs[c], [*string, c], after) for c in range(len(VOCABULARY))]
        kept_ = sorted(found, key=lambda one: -one[0])[:beams]
        if kept_[0][1][-1] <= END:
            break
    string = kept_[0][1]
    return "".join(VOCABULARY[c] for c in (string[:-1] if string[-1] <= END else string))


def check_coder(random: np.random.Generator) -> None:
    """Batches of many lengths give what single strings do, also where some strings of a batch end early."""
    coder = Autoencoder(random_weights(5, 6, 4, random))
    smiles = ["CCO", "c1ccccc1", "C", "CC(=O)N", "OCC", "C[nH]"] * 3
    means, deviations = coder.encode(smiles)
    for i, s in enumerate(smiles):
        mean, deviation = coder.encode([s])
        assert np.allclose(means[i], mean[0], atol=1e-6) and np.allclose(deviations[i], deviation[0], atol=1e-6)
    points = 3 * random.standard_normal((200, 4))
    for beams in (1, 3):
        together = coder.decode(points, beams)
        assert together == [coder.decode(p[None], beams)[0] for p in points]
        assert together == [searched(coder, p, beams) for p in points]
        lengths = {len(s) for s in together}
        assert len(lengths) > 2 and max(lengths) <= LONGEST, lengths
    assert tokens_of("CCl").tolist() == [BEGIN, VOCABULARY.index("C"), VOCABULARY.index("C"), VOCABULARY.index("l"), END]
    for bad in ("C*", "CX", "C^"):
        try:
            tokens_of(bad)
        except ValueError as error:
            assert repr(bad[1]) in str(error)
        else:
            raise AssertionError(bad)


def check_gradient(random: np.random.Generator) -> None:
    """Against differences of the network's value."""
    from safetensors.numpy import save_file  # pylint: disable=import-outside-toplevel
    d, h = 3, 4
    w = {"layer0.input.weight": random.standard_normal((h, d)), "layer0.bias": random.standard_normal(h)}
    for k in (1, 2):
        w |= {f"layer{k}.inner.weight": random.random((h, h)), f"layer{k}.inner.bias": random.standard_normal(h),
              f"layer{k}.outer.weight": random.random((h, h)), f"layer{k}.skip.scale": random.random(h),
              f"layer{k}.input.weight": random.standard_normal((h, d)), f"layer{k}.bias": random.standard_normal(h)}
    w |= {"output.hidden.weight": random.random((1, h)), "output.input.weight": random.standard_normal((1, d)),
          "output.bias": random.standard_normal(1)}

    def value(x: np.ndarray) -> float:
        z = np.logaddexp(0, w["layer0.input.weight"] @ x + w["layer0.bias"])
        for k in (1, 2):
            inner = np.logaddexp(0, w[f"layer{k}.inner.weight"] @ z + w[f"layer{k}.inner.bias"])
            z = np.logaddexp(0, w[f"layer{k}.outer.weight"] @ inner + w[f"layer{k}.skip.scale"] * z
                             + w[f"layer{k}.input.weight"] @ x + w[f"layer{k}.bias"])
        return float((w["output.hidden.weight"] @ z + w["output.input.weight"] @ x + w["output.bias"])[0])

    points = random.standard_normal((5, d))
    with tempfile.TemporaryDirectory() as folder:
        save_file(w, Path(folder) / "v.safetensors")
        found = potential_gradient(Path(folder) / "v.safetensors", points)
        # The last coordinate does not vary: V at its mean, for any value of it.
        codes = np.c_[random.standard_normal((50, d - 1)), np.full(50, 0.3)]
        take_at_mean(Path(folder) / "v.safetensors", codes)
        taken = potential_gradient(Path(folder) / "v.safetensors", points)
        save_file(w, Path(folder) / "v.safetensors")
        at_mean = np.c_[points[:, :-1], np.full(len(points), 0.3)]
        there = potential_gradient(Path(folder) / "v.safetensors", at_mean)
        multiply(Path(folder) / "v.safetensors", 3.0)
        assert np.allclose(potential_gradient(Path(folder) / "v.safetensors", at_mean), 3 * there, atol=1e-12)
    assert np.allclose(taken[:, :-1], there[:, :-1], atol=1e-12) and not taken[:, -1].any()
    for x, gradient in zip(points, found):
        for k in range(d):
            step = 1e-5 * np.eye(d)[k]
            assert abs((value(x + step) - value(x - step)) / 2e-5 - gradient[k]) < 1e-7 * (1 + abs(gradient[k]))


def check_plain(random: np.random.Generator) -> None:
    """The gradient against differences, and a set that a convex function cannot part but this network can."""
    network = Network(2, 3, 2, random)
    network.weights = [w.astype(float) for w in network.weights]
    network.biases = [random.standard_normal(b.shape) for b in network.biases]
    x, y = random.standard_normal((7, 2)), random.integers(0, 2, 7)

    def loss() -> float:
        logit = network.forward(x)[0]
        return float(np.mean(np.logaddexp(0, logit) - y * logit))

    for p, gradient in zip(network.weights + network.biases, network.gradient(x, y)):
        for index in np.ndindex(p.shape):
            old = p[index]
            values = []
            for step in (1e-5, -1e-5):
                p[index] = old + step
                values.append(loss())
            p[index] = old
            assert abs((values[0] - values[1]) / 2e-5 - gradient[index]) < 1e-5
    points = random.standard_normal((4000, 2))
    assert accuracy(points, (points[:, 0] * points[:, 1] > 0).astype(float), 20) > 0.9


def check_chemistry() -> None:
    """An empty string is no molecule, one molecule in two spellings is not unique, QED is RDKit's."""
    found = Decoded.of(["", "CCO", "OCC", "c1ccccc1", "C(", "c1ccc"])
    assert found.validity == 3 / 6 and found.uniqueness == 2 / 3
    assert abs(found.qed[0] - 0.4068) < 1e-3 and found.row()["qed_median"] == float(np.median(found.qed))
    assert Decoded.of(["", "("]).uniqueness == 0 and math.isnan(Decoded.of([""]).row()["qed_median"])
    left = kept(Decoded.of(["CCO", "c1ccccc1"]), Decoded.of(["OCC", "c1ccccc1C"]))
    assert left["same"] == 0.5 and 0 < left["similarity"] < 1 and left["nearest"] >= left["similarity"]


def main() -> None:
    random = np.random.default_rng(1)
    check_unit(random)
    check_coder(random)
    check_gradient(random)
    check_plain(random)
    check_chemistry()
    print("molecules: self-test passed")


if __name__ == "__main__":
    main()
