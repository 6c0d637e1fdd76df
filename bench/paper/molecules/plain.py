# SPDX-License-Identifier: MIT
"""A plain classifier of the convex one's size: how much of its error is the autoencoder's, and how much convexity's."""

from __future__ import annotations

import numpy as np


class Network:
    """Layers with softplus and a logit, trained by Adam with the loss of `brenier fit`."""

    def __init__(self, dim: int, width: int, layers: int, random: np.random.Generator) -> None:
        sizes = [dim, *[width] * layers, 1]
        self.weights = [random.standard_normal((a, b)).astype(np.float32) * np.float32(np.sqrt(2 / a))
                        for a, b in zip(sizes, sizes[1:])]
        self.biases = [np.zeros(b, np.float32) for b in sizes[1:]]

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits (n,) and the layers' values before the activation."""
        kept, z = [], x
        for w, b in zip(self.weights[:-1], self.biases[:-1]):
            kept.append(z @ w + b)
            z = np.logaddexp(0, kept[-1]) - np.float32(np.log(2))
        return (z @ self.weights[-1] + self.biases[-1])[:, 0], kept

    def gradient(self, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        """Of the mean cross-entropy, by weights and then biases."""
        logit, kept = self.forward(x)
        back = ((0.5 * np.tanh(0.5 * logit) + 0.5 - labels) / len(x))[:, None].astype(np.float32)
        by_weights, by_biases = [], []
        for k in range(len(self.weights) - 1, -1, -1):
            below = np.logaddexp(0, kept[k - 1]) - np.float32(np.log(2)) if k else x
            by_weights.insert(0, below.T @ back)
            by_biases.insert(0, back.sum(0))
            if k:
                back = (back @ self.weights[k].T) * (0.5 * np.tanh(0.5 * kept[k - 1]) + 0.5)
        return by_weights + by_biases


def accuracy(points: np.ndarray, labels: np.ndarray, epochs: int, seed: int = 0) -> float:
    """Of a network of 4 x 128 on a tenth of the points, trained on eight tenths; the epoch is the best on the ninth."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(points))
    spread = points.std(axis=0)
    x = ((points - points.mean(axis=0)) / max(spread.max(), 1e-12)).astype(np.float32)[order]
    y = labels.astype(np.float32)[order]
    tenth = len(x) // 10
    test, validation, rest = slice(0, tenth), slice(tenth, 2 * tenth), np.arange(2 * tenth, len(x))
    network = Network(x.shape[1], 128, 4, random)
    parameters = network.weights + network.biases
    first, second = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]
    steps, best, found = 0, -1.0, 0.0
    for epoch in range(epochs):
        random.shuffle(rest)
        rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        for start in range(0, len(rest), 1024):
            chosen = rest[start:start + 1024]
            steps += 1
            for p, m, v, g in zip(parameters, first, second, network.gradient(x[chosen], y[chosen])):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= rate * (m / (1 - 0.9**steps)) / (np.sqrt(v / (1 - 0.999**steps)) + 1e-8)
        score = np.mean((network.forward(x[validation])[0] > 0) == y[validation])
        if score > best:
            best, found = score, float(np.mean((network.forward(x[test])[0] > 0) == y[test]))
    return found
