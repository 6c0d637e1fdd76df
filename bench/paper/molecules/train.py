#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains the autoencoder of autoencoder.py with PyTorch on the CPU.

    train.py --train train.csv.gz --test test.csv.gz --out FOLDER --minutes 120      starts; --resume goes on

Rates and weights follow the share of --minutes that has been trained. Minutes are those of the processor, divided by
the threads: a training that runs beside other programs at a low priority is the same, only later. FOLDER gets
checkpoint.pt and weights.safetensors (float16) every --save minutes and where the program is asked to stop (SIGTERM,
SIGINT), and log.csv with a row of measurements on held-out molecules every --evaluate minutes.
`--resume` continues checkpoint.pt; `--start weights.safetensors` begins with the weights of a finished training.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from autoencoder import BEGIN, END, VOCABULARY, Autoencoder, tokens_of  # pylint: disable=wrong-import-position
from data import smiles_of  # pylint: disable=wrong-import-position

CHARACTERS = len(VOCABULARY)


# --- the gated recurrent unit, its gradient by hand ---------------------------------------------------------------
# PyTorch's own unit keeps more and does the products of weight gradients a step at a time; here they are one each.
# (torch.compile of the two functions below gained nothing: 440 molecules a second and core with and without.)


def step_forward(inputs: Tensor, gates: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The new state, [r, z, n] and a_n + bias of one step."""
    size = state.shape[1]
    rz = torch.sigmoid(inputs[:, :2 * size] + gates[:, :2 * size])
    inner = gates[:, 2 * size:] + bias
    new = torch.tanh(inputs[:, 2 * size:] + rz[:, :size] * inner)
    return new + rz[:, size:] * (state - new), torch.cat([rz, new], 1), inner


def step_backward(gradient: Tensor, rzn: Tensor, inner: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient by the new state: those by inputs and gates, and the direct part of that by the state."""
    size = state.shape[1]
    r, z, n = rzn[:, :size], rzn[:, size:2 * size], rzn[:, 2 * size:]
    by_n = gradient * (1 - z) * (1 - n * n)
    by_z = gradient * (state - n) * z * (1 - z)
    by_r = by_n * inner * r * (1 - r)
    return torch.cat([by_r, by_z, by_n], 1), torch.cat([by_r, by_z, by_n * r], 1), gradient * z


class Unroll(torch.autograd.Function):
    """All steps of the unit over strings of one length."""

    @staticmethod
    def forward(ctx, tokens, table, every, recurrent, bias, start):  # type: ignore[override]
        """tokens (T, B), table (V, 3H), every (B, 3H) or None, recurrent (H, 3H), bias (H,), start (B, H) -> (T, B, H)."""
        states, kept = [start], []
        for column in tokens:
            inputs = table[column]
            if every is not None:
                inputs += every
            state, rzn, inner = step_forward(inputs, states[-1] @ recurrent, bias, states[-1])
            states.append(state)
            kept.append((rzn, inner))
        ctx.kept = (tokens, states, kept, recurrent, every is not None, table.shape[0])
        return torch.stack(states[1:])

    @staticmethod
    def backward(ctx, gradients):  # type: ignore[override]
        """Gradients by all inputs."""
        tokens, states, kept, recurrent, has_every, characters = ctx.kept
        back = recurrent.t().contiguous()
        carried = torch.zeros_like(states[0])
        by_inputs, by_gates = [], []
        for t in range(len(tokens) - 1, -1, -1):
            inputs, gates, direct = step_backward(gradients[t] + carried, *kept[t], states[t])
            carried = torch.addmm(direct, gates, back)
            by_inputs.append(inputs)
            by_gates.append(gates)
        inputs = torch.cat(by_inputs[::-1])
        gates = torch.cat(by_gates[::-1])
        hot = torch.zeros(characters, inputs.shape[0])
        hot.scatter_(0, tokens.reshape(1, -1), 1.0)
        size = recurrent.shape[0]
        every = inputs.view(len(tokens), -1, 3 * size).sum(0) if has_every else None
        return (None, hot @ inputs, every, torch.cat(states[:-1]).t() @ gates, gates[:, 2 * size:].sum(0), carried)


class Unit(nn.Module):
    """Parameters of a gated recurrent unit."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(CHARACTERS, 3 * size) * 0.3)
        blocks = [nn.init.orthogonal_(torch.empty(size, size)) for _ in range(3)]
        self.recurrent = nn.Parameter(torch.cat(blocks, 1))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, tokens: Tensor, start: Tensor | None = None, every: Tensor | None = None) -> Tensor:
        """States (T, B, H) after each of tokens (T, B)."""
        if start is None:
            start = torch.zeros(tokens.shape[1], self.bias.numel())
        return Unroll.apply(tokens, self.table, every, self.recurrent, self.bias, start)


class Model(nn.Module):
    """The autoencoder; parameters are named as in autoencoder.py."""

    def __init__(self, encoder: int, decoder: int, latent: int, both_ways: bool) -> None:
        super().__init__()
        self.shape = {"encoder": encoder, "decoder": decoder, "latent": latent, "both_ways": both_ways}
        self.encoder = Unit(encoder)
        if both_ways:
            self.encoder_back = Unit(encoder)
        ends = encoder * (2 if both_ways else 1)
        self.mean = nn.Linear(ends, latent)
        self.deviation = nn.Linear(ends, latent)
        self.start = nn.Linear(latent, decoder)
        self.every = nn.Linear(latent, 3 * decoder, bias=False)
        self.decoder = Unit(decoder)
        self.output = nn.Linear(decoder, CHARACTERS)
        with torch.no_grad():
            self.deviation.weight.zero_()
            self.deviation.bias.fill_(-2.0)

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log of the variance of tokens (T, B)."""
        state = self.encoder(tokens)[-1]
        if hasattr(self, "encoder_back"):
            state = torch.cat([state, self.encoder_back(tokens.flip(0))[-1]], 1)
        return self.mean(state), self.deviation(state)

    def loss(self, tokens: Tensor, dropout: float) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy and divergence, nats a molecule, and the share of characters that are right."""
        mean, log_variance = self.encode(tokens)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        seen = tokens[:-1]
        if dropout > 0:
            seen = torch.where((torch.rand(seen.shape) < dropout) & (seen > END), 0, seen)
        states = self.decoder(seen, self.start(latent), self.every(latent))
        outputs = self.output(states.flatten(0, 1))
        targets = tokens[1:].reshape(-1)
        entropy = nn.functional.cross_entropy(outputs, targets, reduction="sum") / tokens.shape[1]
        right = (outputs.argmax(1) == targets).float().mean()
        return entropy, divergence, right

    def arrays(self, kind: type = np.float32) -> dict[str, np.ndarray]:
        """Weights by name."""
        return {name: value.detach().numpy().astype(kind) for name, value in self.state_dict().items()}


# --- strings ----------------------------------------------------------------------------------------------------


class Strings:
    """The training set, by length, in random batches of one length each."""

    def __init__(self, smiles: list[str], batch: int, seed: int) -> None:
        by_length: dict[int, list[str]] = {}
        for one in smiles:
            by_length.setdefault(len(one), []).append(one)
        table = np.zeros(256, np.uint8)
        for index, character in enumerate(VOCABULARY):
            table[ord(character)] = index
        self.blocks = []
        for length, chosen in sorted(by_length.items()):
            # One pass over bytes instead of one per string.
            letters = table[np.frombuffer("".join(chosen).encode(), np.uint8)].reshape(len(chosen), length)
            if letters.min(initial=3) < 3:
                tokens_of(chosen[int(np.argmin(letters.min(1)))])
            ends = np.full((len(chosen), 1), BEGIN, np.uint8), np.full((len(chosen), 1), END, np.uint8)
            self.blocks.append(np.concatenate([ends[0], letters, ends[1]], 1))
        self.batch = batch
        self.random = np.random.default_rng(seed)
        self.count = len(smiles)

    def epoch(self):
        """All molecules once: (T, B) tensors."""
        batches = []
        for block in self.blocks:
            order = self.random.permutation(len(block))
            batches += [block[order[i:i + self.batch]] for i in range(0, len(order), self.batch)]
        for i in self.random.permutation(len(batches)):
            yield torch.from_numpy(batches[i].T.astype(np.int64).copy())


# --- measurements -----------------------------------------------------------------------------------------------


def valid(smiles: str) -> bool:
    """Whether RDKit reads the string; an empty one is not a molecule."""
    from rdkit import Chem, RDLogger  # pylint: disable=import-outside-toplevel
    RDLogger.DisableLog("rdApp.*")
    return bool(smiles) and Chem.MolFromSmiles(smiles) is not None


def measure(weights: dict[str, np.ndarray], smiles: list[str], seed: int) -> dict[str, float]:
    """Reconstruction and validity on molecules, under noise and from the prior."""
    random = np.random.default_rng(seed)
    coder = Autoencoder(weights)
    means, deviations = coder.encode(smiles)
    spread = means.std(axis=0)
    result = {"divergence": float(0.5 * (means**2 + deviations**2 - 1 - 2 * np.log(deviations)).sum(1).mean()),
              "active": int((spread > 0.1).sum()), "spread": float(spread.mean()),
              "deviation": float(deviations.mean())}
    decoded = coder.decode(means, 1)  # greedily: a quarter of the time
    result["exact"] = float(np.mean([a == b for a, b in zip(smiles, decoded)]))
    result["valid"] = float(np.mean([valid(s) for s in decoded]))
    for noise in (0.1, 0.2, 0.3, 0.5):
        moved = coder.decode(means + noise * spread * random.standard_normal(means.shape), 1)
        result[f"valid_{noise}"] = float(np.mean([valid(s) for s in moved]))
    prior = coder.decode(random.standard_normal(means.shape), 1)
    result["prior"] = float(np.mean([valid(s) for s in prior]))
    result["prior_unique"] = len({s for s in prior if valid(s)}) / max(1, sum(valid(s) for s in prior))
    return result


# --- training ---------------------------------------------------------------------------------------------------


def ramp(progress: float, full: float) -> float:
    """0 to 1, linear, 1 from `full` on."""
    return 1.0 if full <= 0 else min(1.0, progress / full)


def rate_at(progress: float, steps: int, options: argparse.Namespace) -> float:
    """Warm-up over 200 steps, then half a cosine down to a fiftieth."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return options.rate * min(1.0, (steps + 1) / 200) * (0.02 + 0.98 * cosine)


def write_atomically(path: Path, write) -> None:
    """Calls write(temporary path), then renames."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    os.replace(temporary, path)


class Trainer:
    """Model, optimiser and where they stand."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        torch.manual_seed(options.seed)
        checkpoint = options.out / "checkpoint.pt"
        kept = torch.load(checkpoint, weights_only=False) if options.resume and checkpoint.is_file() else None
        if kept:
            self.model = Model(**kept["shape"])
            self.model.load_state_dict(kept["model"])
        elif options.start:
            from safetensors.torch import load_file  # pylint: disable=import-outside-toplevel
            self.model = started(load_file(options.start))
        else:
            self.model = Model(options.encoder, options.decoder, options.latent, options.both_ways)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=options.rate, betas=(0.9, 0.99))
        self.state = {"steps": 0, "molecules": 0, "minutes": 0.0}
        if kept:
            self.optimiser.load_state_dict(kept["optimiser"])
            self.state = kept["state"]
            torch.set_rng_state(kept["random"])
        self.stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)

    def stop(self, *_: object) -> None:
        """Asked to stop: at the next step."""
        self.stopped = True

    def save(self) -> None:
        """Writes the checkpoint."""
        content = {"shape": self.model.shape, "model": self.model.state_dict(), "state": self.state,
                   "optimiser": self.optimiser.state_dict(), "random": torch.get_rng_state()}
        write_atomically(self.options.out / "checkpoint.pt", lambda path: torch.save(content, path))

    def export(self) -> None:
        """Writes the weights in float16."""
        from safetensors.numpy import save_file  # pylint: disable=import-outside-toplevel
        write_atomically(self.options.out / "weights.safetensors",
                         lambda path: save_file(self.model.arrays(np.float16), path))

    def record(self, row: dict[str, float]) -> None:
        """Appends to log.csv and prints."""
        path = self.options.out / "log.csv"
        new = not path.is_file()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(json.dumps(row), flush=True)

    def run(self, strings: Strings, held_out: list[str]) -> None:
        """Trains until the minutes are spent or it is asked to stop."""
        options, state = self.options, self.state
        begun = time.process_time() - 60 * options.threads * state["minutes"]
        saved = printed = time.monotonic()
        evaluated = state["minutes"]
        sums = recent = np.zeros(3)
        count = 0
        strings.random = np.random.default_rng([options.seed, state["steps"]])
        while True:
            for tokens in strings.epoch():
                progress = state["minutes"] / options.minutes
                rate = rate_at(progress, state["steps"], options)
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                weight = options.weight * (options.least + (1 - options.least) * ramp(progress, options.rise))
                entropy, divergence, right = self.model.loss(tokens, options.dropout)
                self.optimiser.zero_grad(set_to_none=True)
                (entropy + weight * divergence).backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
                self.optimiser.step()
                sums = sums + [entropy.item(), divergence.item(), right.item()]
                count += 1
                state["steps"] += 1
                state["molecules"] += tokens.shape[1]
                now = time.monotonic()
                state["minutes"] = (time.process_time() - begun) / (60 * options.threads)
                done = self.stopped or state["minutes"] >= options.minutes
                if now - printed > options.tell or done:
                    means = sums / count
                    print(f"{state['minutes']:.1f} min, epoch {state['molecules'] / strings.count:.3f}, "
                          f"entropy {means[0]:.3f}, divergence {means[1]:.1f}, right {means[2]:.4f}, "
                          f"rate {rate:.2g}, weight {weight:.3g}", flush=True)
                    sums, count, printed = np.zeros(3), 0, now
                    recent = means
                if now - saved > 60 * options.save or done:
                    self.save()
                    self.export()
                    saved = now
                if state["minutes"] - evaluated > options.evaluate or done:
                    row = {"minutes": round(state["minutes"], 1), "epochs": round(state["molecules"] / strings.count, 3),
                           "entropy": round(float(recent[0]), 3), "weight": round(weight, 4)}
                    row |= {k: round(v, 4) for k, v in measure(self.model.arrays(), held_out, options.seed).items()}
                    self.record(row)
                    evaluated = state["minutes"]
                if done:
                    return


def started(weights: dict[str, Tensor]) -> Model:
    """A model of the shape of the weights, with them."""
    model = Model(weights["encoder.bias"].numel(), weights["decoder.bias"].numel(), weights["mean.bias"].numel(),
                  "encoder_back.bias" in weights)
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="molecules to train with: .csv.gz or .txt.gz")
    parser.add_argument("--test", type=Path, required=True, help="held-out molecules")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, log and weights")
    parser.add_argument("--minutes", type=float, default=120, help="length of the training, of the processor (default 120)")
    parser.add_argument("--resume", action="store_true", help="go on with the checkpoint of --out where there is one")
    parser.add_argument("--start", type=Path, help="weights to begin with")
    parser.add_argument("--encoder", type=int, default=256, help="units of the encoder (default 256)")
    parser.add_argument("--decoder", type=int, default=256, help="units of the decoder (default 256)")
    parser.add_argument("--latent", type=int, default=128, help="latent dimension (default 128)")
    parser.add_argument("--both-ways", action="store_true", help="a second encoder reads the string backwards")
    parser.add_argument("--batch", type=int, default=256, help="molecules a step (default 256)")
    parser.add_argument("--rate", type=float, default=2e-3, help="largest rate of Adam (default 2e-3)")
    parser.add_argument("--weight", type=float, default=0.1, help="weight of the divergence (default 0.1)")
    parser.add_argument("--least", type=float, default=0.1, help="share of the weight at the beginning (default 0.1)")
    parser.add_argument("--rise", type=float, default=0.5, help="share of the training in which it rises (default 0.5)")
    parser.add_argument("--dropout", type=float, default=0.0, help="share of characters the decoder does not see")
    parser.add_argument("--clip", type=float, default=20.0, help="largest norm of the gradient (default 20)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="seed (default 1)")
    parser.add_argument("--molecules", type=int, help="use this many of the training set")
    parser.add_argument("--held-out", type=int, default=1000, help="held-out molecules to measure on (default 1000)")
    parser.add_argument("--evaluate", type=float, default=20, help="such minutes between measurements (default 20)")
    parser.add_argument("--save", type=float, default=4, help="minutes by the clock between checkpoints (default 4)")
    parser.add_argument("--tell", type=float, default=60, help="seconds between lines of progress (default 60)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    smiles = smiles_of(options.train)[:options.molecules]
    random = np.random.default_rng(0)
    held_out = smiles_of(options.test)
    held_out = [held_out[i] for i in random.choice(len(held_out), min(options.held_out, len(held_out)), replace=False)]
    Trainer(options).run(Strings(smiles, options.batch, options.seed), held_out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
