# SPDX-License-Identifier: MIT
"""Times one inner iteration of a JKO step in PyTorch: loss, theta-gradient, Adam, clamp of the weights.

Each form is first checked: its loss in float64 against the nested form, and what is timed, in its own
precision, against the nested form's float64 gradient and Adam steps. Then all forms are timed in turn,
round after round, each from the initial state. Prints one JSON line a form.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch._dynamo.utils import counters
from torch.func import grad_and_value

import pytorch_divergence as divergence
import pytorch_icnn as icnn
from arguments import add_measurement, parser_of

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
ORACLE_CHUNK = 50_000  # particles whose double precision activations are in memory at once
Loss = Callable[[icnn.Params, Tensor, Tensor, icnn.Problem], Tensor]


@dataclass
class State:
    """The flat parameter vector with Adam's moments; `low` holds the lower bound of every element."""

    shapes: dict[str, torch.Size]
    theta: Tensor
    low: Tensor
    first: Tensor = field(init=False)
    second: Tensor = field(init=False)
    count: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.first, self.second = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        self.count = torch.zeros((), dtype=self.theta.dtype, device=self.theta.device)

    @staticmethod
    def create(params: icnn.Params, problem: icnn.Problem, dtype: torch.dtype, device: str = "cpu") -> State:
        """A fresh state from named parameters."""

        def bound(name: str) -> float:
            if name.endswith("hidden.weight"):
                return problem.floor
            return problem.alpha_floor if name == "quadratic.alpha" else -float("inf")

        low = torch.cat([torch.full((p.numel(),), bound(name), dtype=dtype) for name, p in params.items()])
        theta = torch.cat([p.detach().to(dtype).flatten() for p in params.values()])
        return State({name: p.shape for name, p in params.items()}, theta.to(device), low.to(device))

    def named(self, flat: Tensor) -> icnn.Params:
        """A flat vector as named views."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts)}


def gradient(
    loss: Loss, problem: icnn.Problem, state: State, theta: Tensor, x: Tensor, ld: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss and gradient with respect to the flat parameters, by torch.func; traceable as one graph."""
    slope, value = grad_and_value(lambda flat: loss(state.named(flat), x, ld, problem))(theta)
    return value, slope


def adam(state: State, slope: Tensor, lr: float) -> None:
    """Adam and the clamp, in place; traceable as one graph."""
    state.count.add_(1)
    state.first.lerp_(slope, 1 - BETA1)
    state.second.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
    rate = lr / (1 - BETA1**state.count)
    scale = (state.second / (1 - BETA2**state.count)).sqrt() + EPSILON
    state.theta.copy_(torch.maximum(state.theta - rate * state.first / scale, state.low))


@dataclass(frozen=True)
class Setup:
    """What all forms share: first parameters, cloud (N, d), log-densities (N), problem, rate, device."""

    params: icnn.Params
    x: Tensor
    log_density: Tensor
    problem: icnn.Problem
    lr: float
    device: str = "cpu"


class Runner:
    """One form: `step()` does an iteration, `gradient()` gives loss and gradient, `reset()` starts anew."""

    def __init__(self, setup: Setup, dtype: torch.dtype) -> None:
        self.problem, self.lr = setup.problem, setup.lr
        if setup.problem.latent:
            self.problem = replace(setup.problem, latent=setup.problem.latent.to(setup.device, dtype))
        self.x, self.ld = setup.x.to(setup.device, dtype), setup.log_density.to(setup.device, dtype)
        self.initial = setup.params
        self.device = setup.device
        self.dtype = dtype
        self.reset()

    def reset(self) -> None:
        """Back to the initial parameters and zero moments, in the same memory where there is some."""
        fresh = State.create(self.initial, self.problem, self.dtype, self.device)
        if not hasattr(self, "state"):
            self.state = fresh
            return
        for name in ("theta", "first", "second", "count"):
            getattr(self.state, name).copy_(getattr(fresh, name))

    def parameters(self) -> Tensor:
        """A copy of the flat parameters."""
        return self.state.theta.clone()

    def gradient(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError


class Eager(Runner):
    """Leaf tensors, backward(), torch.optim.Adam(fused=True): what a research code does, at its best.

    With `chunk`, the gradient is accumulated over blocks of that many particles: memory for the oracle.
    """

    capturable = False

    def __init__(self, setup: Setup, dtype: torch.dtype, loss: Loss, chunk: int = 0) -> None:
        self.loss, self.chunk = loss, chunk or len(setup.x)
        super().__init__(setup, dtype)

    def reset(self) -> None:
        super().reset()
        self.leaves = {
            name: p.clone().requires_grad_() for name, p in self.state.named(self.state.theta).items()
        }
        self.optimiser = torch.optim.Adam(
            self.leaves.values(), lr=self.lr, betas=(BETA1, BETA2), eps=EPSILON, fused=True,
            capturable=self.capturable,
        )
        self.weights = [p for name, p in self.leaves.items() if name.endswith("hidden.weight")]

    def parameters(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.leaves.values()])

    def backward(self) -> Tensor:
        self.optimiser.zero_grad()
        if self.chunk >= len(self.x):
            value = self.loss(self.leaves, self.x, self.ld, self.problem)
            value.backward()
            return value.detach()
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        for x, ld in zip(self.x.split(self.chunk), self.ld.split(self.chunk)):
            value = self.loss(self.leaves, x, ld, self.problem) * (len(x) / len(self.x))
            value.backward()
            total += value.detach()
        return total

    def gradient(self) -> tuple[Tensor, Tensor]:
        value = self.backward()
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.leaves.values()]
        return value, torch.cat([s.flatten() for s in slopes])

    def step(self) -> None:
        self.value = self.backward()
        self.optimiser.step()
        with torch.no_grad():
            for weight in self.weights:
                weight.clamp_(min=self.problem.floor)
            self.leaves["quadratic.alpha"].clamp_(min=self.problem.alpha_floor)


def record(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of one step, after a few on a stream of their own, as PyTorch's documentation asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


class EagerGraph(Eager):
    """The eager iteration recorded once in a CUDA graph, Adam(fused, capturable) and clamps included."""

    capturable = True

    def __init__(self, setup: Setup, dtype: torch.dtype, loss: Loss) -> None:
        super().__init__(setup, dtype, loss)
        self.graph = record(super().step)
        # Where the recorded backward() writes; the graph's Adam reads the same memory.
        self.slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.leaves.values()]

    def reset(self) -> None:
        if not hasattr(self, "graph"):
            super().reset()
            return
        with torch.no_grad():
            for name, first in self.state.named(self.state.theta).items():
                self.leaves[name].copy_(first)
            for moments in self.optimiser.state.values():
                for tensor in moments.values():
                    tensor.zero_()

    def gradient(self) -> tuple[Tensor, Tensor]:
        self.reset()
        self.graph.replay()
        return self.value.clone(), torch.cat([s.flatten() for s in self.slopes])

    def step(self) -> None:
        self.graph.replay()


def compiler(function: Callable, options: dict | None, mode: str | None = None) -> Callable:
    """torch.compile as one graph. The code object is copied, as PyTorch looks compiled forms up by it."""
    own = FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False, options=options, mode=mode)


class Compiled(Runner):
    """torch.compile: loss, gradient, Adam and clamp are one graph.

    With `chunk`, the gradient is accumulated over blocks of that many particles, whose activations stay in
    the cache; then the gradient of a block is one graph and Adam with the clamp a second one.
    """

    def __init__(
        self,
        setup: Setup,
        dtype: torch.dtype,
        loss: Loss,
        chunk: int = 0,
        options: dict | None = None,
        mode: str | None = None,
    ) -> None:
        super().__init__(setup, dtype)
        n, state, problem = len(self.x), self.state, self.problem
        chunk = min(chunk or n, n)
        if chunk < n and problem.latent:
            raise ValueError(f"transport of {n} particles is not a sum over blocks of {chunk}")
        self.blocks = [(x.clone(), ld.clone()) for x, ld in zip(self.x.split(chunk), self.ld.split(chunk))]
        self.total = torch.zeros_like(state.theta)
        self.value = torch.zeros((), dtype=dtype, device=setup.device)
        # Modes that replay CUDA graphs skip them where inputs change in place, unless their memory stays.
        held = [state.theta, state.first, state.second, state.count, state.low, self.total, self.value]
        for tensor in [*held, *(tensor for block in self.blocks for tensor in block)] if mode else []:
            torch._dynamo.mark_static_address(tensor)

        def accumulate(theta: Tensor, total: Tensor, sum_value: Tensor, x: Tensor, ld: Tensor) -> None:
            value, slope = gradient(loss, problem, state, theta, x, ld)
            total.add_(slope, alpha=len(x) / n)
            sum_value.add_(value, alpha=len(x) / n)

        def update(total: Tensor) -> None:
            adam(state, total, setup.lr)

        def whole(x: Tensor, ld: Tensor) -> None:
            adam(state, gradient(loss, problem, state, state.theta, x, ld)[1], setup.lr)

        self.accumulate = {len(x): compiler(accumulate, options, mode) for x, _ in self.blocks}
        self.update = compiler(update, options, mode)
        self.whole = compiler(whole, options, mode) if len(self.blocks) == 1 else None

    def accumulate_blocks(self) -> None:
        """Loss and gradient of the whole cloud, into `value` and `total`."""
        self.total.zero_()
        self.value.zero_()
        for x, ld in self.blocks:
            self.accumulate[len(x)](self.state.theta, self.total, self.value, x, ld)

    def gradient(self) -> tuple[Tensor, Tensor]:
        self.accumulate_blocks()
        return self.value.clone(), self.total.clone()

    def step(self) -> None:
        if self.whole:
            self.whole(*self.blocks[0])
        else:
            self.accumulate_blocks()
            self.update(self.total)


class CompiledGraph(Compiled):
    """torch.compile without graphs of its own, its iteration then recorded in a CUDA graph by hand."""

    def __init__(self, setup: Setup, dtype: torch.dtype, loss: Loss) -> None:
        super().__init__(setup, dtype, loss)
        self.graph = record(super().step)

    def step(self) -> None:
        self.graph.replay()


# The strongest options on a CPU: a C++ wrapper in place of a Python one, and no checks of the arguments.
FAST = {"cpp_wrapper": True, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
TUNED = FAST | {"max_autotune": True, "max_autotune_gemm_backends": "CPP,ATEN"}
Forms = dict[str, Callable[[Setup, torch.dtype], Runner]]
CPU_FORMS: Forms = {
    "eager": partial(Eager, loss=icnn.loss_nested),
    "eager_dense": partial(Eager, loss=partial(icnn.loss_nested, transport=divergence.dense)),
    "eager_analytic": partial(Eager, loss=icnn.loss_analytic),
    "compile_func": partial(Compiled, loss=icnn.loss_func),
    "compile_analytic": partial(Compiled, loss=icnn.loss_analytic),
    "compile_analytic_autotune": partial(Compiled, loss=icnn.loss_analytic, options=TUNED),
    "compile_analytic_fast": partial(Compiled, loss=icnn.loss_analytic, options=FAST),
    "compile_analytic_blocked": partial(Compiled, loss=icnn.loss_analytic, options=FAST, chunk=1000),
}
REPLAY, AUTOTUNE = "reduce-overhead", "max-autotune"
CUDA_FORMS: Forms = {
    "eager": partial(Eager, loss=icnn.loss_nested),
    "eager_graph": partial(EagerGraph, loss=icnn.loss_nested),
    "eager_analytic_graph": partial(EagerGraph, loss=icnn.loss_analytic),
    "compile_func": partial(Compiled, loss=icnn.loss_func, mode=REPLAY),
    "compile_func_graph": partial(CompiledGraph, loss=icnn.loss_func),
    "compile_analytic": partial(Compiled, loss=icnn.loss_analytic, mode=REPLAY),
    "compile_analytic_graph": partial(CompiledGraph, loss=icnn.loss_analytic),
    "compile_func_autotune": partial(Compiled, loss=icnn.loss_func, mode=AUTOTUNE),
    "compile_analytic_autotune": partial(Compiled, loss=icnn.loss_analytic, mode=AUTOTUNE),
}
FORMS = {"cpu": CPU_FORMS, "cuda": CUDA_FORMS}


def default_forms(device: str, functional: str) -> list[str]:
    """All that apply, but on a GPU not those that try many kernels first: they take minutes."""

    def applies(form: str) -> bool:
        if functional == "latent":
            return not form.endswith(("autotune", "blocked", "func"))
        return form != "eager_dense"

    return [form for form in FORMS[device] if applies(form) and not (device == "cuda" and form.endswith("autotune"))]


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b| in the Euclidean norm, in float64."""
    a, b = a.detach().double(), b.detach().double()
    return (torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)).item()


def after_steps(runner: Runner, count: int = 5) -> Tensor:
    """The parameters after some iterations from the initial state."""
    runner.reset()
    for _ in range(count):
        runner.step()
    return runner.parameters().double()


def time_round(runner: Runner, seconds: float) -> list[float]:
    """Seconds per iteration, one value for each 20 ms, until `seconds` have passed; from the start."""
    on_device = runner.device == "cuda"

    def block(count: int) -> float:
        """Seconds of so many iterations, until the device has done them."""
        start = time.perf_counter()
        for _ in range(count):
            runner.step()
        if on_device:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    runner.reset()
    block(1)
    trial = 5 if on_device else 1
    count = max(1, round(0.02 * trial / block(trial)))
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        samples.append(block(count) / count)
    if on_device:
        torch.cuda.empty_cache()  # other forms of a large cloud need the memory
    return samples


def prepare(
    setup: Setup, forms: list[str], dtype: torch.dtype
) -> tuple[dict[str, Runner], dict[str, dict], Tensor]:
    """Builds, checks and warms up the forms. Returns them, the findings, and the float64 gradient."""
    known = FORMS[setup.device]
    oracle = Eager(setup, torch.float64, loss=icnn.loss_nested, chunk=ORACLE_CHUNK)
    value, reference = oracle.gradient()
    start_point = oracle.parameters()
    moved = after_steps(oracle) - start_point
    runners: dict[str, Runner] = {}
    facts: dict[str, dict] = {}
    for form in forms:
        try:
            start = time.perf_counter()
            skipped = counters["inductor"]["cudagraph_skips"]
            runner = known[form](setup, dtype)
            loss, slope = runner.gradient()
            moved_here = after_steps(runner) - start_point
            exact_loss = known[form].keywords["loss"]
            _, exact = Eager(setup, torch.float64, loss=exact_loss, chunk=ORACLE_CHUNK).gradient()
            skipped = counters["inductor"]["cudagraph_skips"] - skipped
        except Exception as error:  # a form that PyTorch cannot compile is a result, not the end of the run
            print(json.dumps({"form": form, "failed": f"{type(error).__name__}: {error}"[:500]}), flush=True)
            continue
        runners[form] = runner
        facts[form] = {
            "loss_rel_error": relative(loss, value),
            "gradient_rel_error": relative(slope, reference),
            "step_rel_error": relative(moved_here, moved),
            "double_rel_error": relative(exact, reference),
            "prepare_seconds": round(time.perf_counter() - start, 2),
        }
        if skipped:  # torch.compile fell back to launches one by one
            facts[form]["cudagraph_skips"] = skipped
        # Wide in float32, where the nested form cancels in grad u - x; another loss would exceed it.
        bound = 1e-2 if dtype == torch.float32 else 1e-8
        errors = [facts[form][key] for key in ("loss_rel_error", "gradient_rel_error", "step_rel_error")]
        if not (facts[form]["double_rel_error"] <= 1e-9 and max(errors) <= bound):
            raise SystemExit(f"form {form} does not compute what the nested form does: {facts[form]}")
    return runners, facts, reference


def load(args: argparse.Namespace) -> Setup:
    """Parameters and cloud from the files named, or random ones."""
    hidden = [int(width) for width in args.hidden.split(",")]
    x, log_density = icnn.initial_cloud(args.n, args.dim, args.functional, args.seed)
    if args.cloud:
        x = np.load(args.cloud)
        log_density = np.load(args.log_density) if args.log_density else np.zeros(len(x))
    params = icnn.initial_parameters(x.shape[1], hidden, args.seed)
    if args.maps:
        file = load_file(args.maps)
        params = {name: torch.from_numpy(file[name]).double().reshape(p.shape) for name, p in params.items()}
    as_tensor = partial(torch.as_tensor, dtype=torch.float64)
    latent = None
    if args.functional == "latent":
        potential = icnn.initial_parameters(x.shape[1], [128] * 4, args.seed + 1)
        potential["quadratic.alpha"].zero_()
        latent = divergence.Latent(potential, as_tensor(x), diameter=2 * float(np.linalg.norm(np.ptp(x, 0))))
    problem = icnn.Problem(args.functional, args.tau, args.m, args.floor, args.alpha_floor, latent)
    return Setup(params, as_tensor(x), as_tensor(log_density).reshape(-1), problem, args.lr, args.device)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--n", type=int, default=1000, help="particles")
    parser.add_argument("--dim", type=int, default=1)
    add_measurement(parser, seconds=1.0)
    parser.add_argument("--functional", choices=icnn.FUNCTIONALS, default="porous_medium")
    parser.add_argument("--device", choices=tuple(FORMS), default="cpu")
    parser.add_argument(
        "--serve", action="store_true", help="after warm-up, do a round for each line on standard input"
    )
    parser.add_argument("--maps", help="parameters, .safetensors")
    parser.add_argument("--cloud", help="particles (N, d), .npy")
    parser.add_argument("--log-density", help="log-densities (N), .npy")
    parser.add_argument("--dump-gradient", help="float64 gradient, .safetensors, with the parameters' names")
    parser.add_argument("--dump-inputs", help="folder for maps.safetensors, cloud.npy and log_density.npy")
    for name, default in (("tau", 1e-3), ("m", 2.0), ("lr", 1e-3), ("floor", 0.0), ("alpha-floor", 1e-3)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.forms = args.forms.split(",") if args.forms else default_forms(args.device, args.functional)
    unknown = set(args.forms) - set(FORMS[args.device])
    if unknown:
        known = ", ".join(FORMS[args.device])
        parser.error(f"unknown forms {sorted(unknown)}; on {args.device} there are {known}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no CUDA device here; use --device cpu")
    return args


def dump(args: argparse.Namespace, setup: Setup, reference: Tensor) -> None:
    """Writes the files that the command line asks for."""
    if args.dump_gradient:
        named = State.create(setup.params, setup.problem, torch.float64).named(reference)
        save_file({name: p.cpu().numpy().copy() for name, p in named.items()}, args.dump_gradient)
    if args.dump_inputs:
        os.makedirs(args.dump_inputs, exist_ok=True)
        path = partial(os.path.join, args.dump_inputs)
        save_file({name: p.numpy() for name, p in setup.params.items()}, path("maps.safetensors"))
        np.save(path("cloud.npy"), setup.x.numpy())
        np.save(path("log_density.npy"), setup.log_density.numpy())
        if setup.problem.latent:
            potential = {k: p.numpy() for k, p in setup.problem.latent.potential.items() if k != "quadratic.alpha"}
            save_file(potential, path("potential.safetensors"))


def main() -> None:
    args = parse()
    torch._logging.set_logs(all=logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("highest")  # no TF32: the same precision on every device
    # Freed buffers go back to the heap, not to the system: else large clouds pay for page faults.
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    setup = load(args)
    dtype = torch.float32 if args.dtype == "float" else torch.float64
    runners, facts, reference = prepare(setup, args.forms, dtype)
    dump(args, setup, reference)
    n, dim = setup.x.shape
    common = {"n": n, "dim": dim, "hidden": args.hidden, "functional": args.functional, "dtype": args.dtype}
    if setup.problem.latent:
        common |= {"transport_steps": len(setup.problem.latent.epsilons) + 2}
    common |= {"torch": torch.__version__, "threads": args.threads}
    common |= {"device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu"}

    def report(samples: dict[str, list[float]]) -> None:
        for form, times in samples.items():
            line = (
                {"form": form}
                | common
                | {"seconds_median": statistics.median(times), "seconds_min": min(times)}
            )
            print(json.dumps(line | facts[form]), flush=True)

    if args.serve:
        print(json.dumps({"ready": list(runners)}), flush=True)
        for _ in sys.stdin:
            report({form: time_round(runner, args.seconds) for form, runner in runners.items()})
            print(json.dumps({"ready": list(runners)}), flush=True)
        return
    samples: dict[str, list[float]] = {form: [] for form in runners}
    for _ in range(args.rounds):
        for form, runner in runners.items():
            samples[form] += time_round(runner, args.seconds)
    report(samples)


if __name__ == "__main__":
    main()
