"""Learn multi-query associative recall with attention written as specs.

    python examples/train_recall.py                       # three mechanisms, a few minutes
    python examples/train_recall.py --steps 50 --only softmax --plot recall.svg

The task is that of Arora et al., "Zoology" (2023): a sequence shows pairs of a key and a value, and
then asks for the values of its keys. The model is one layer: what a token reads by is itself, what
it is found by is the token before it (a shift, as in short convolutions).
"""

from __future__ import annotations

import argparse
import time

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

import cascade

# Heads come before the batch: a kernel of a recurrence steps through a tile of the batch at once.
SOFTMAX = """
cascade softmax_attention
import std
input  Q[h,b,i,e], K[h,b,m,e], V[h,b,m,f]
param  scale = 1/sqrt(E)
QK[h,b,i,m] = scale * Q[h,b,i,e] * K[h,b,m,e]   where m <= i
A[h,b,i,m]  = softmax[m](QK[h,b,i,m])
O[h,b,i,f]  = A[h,b,i,m] * V[h,b,m,f]
output O
"""

# Arora et al., "Simple linear attention language models balance the recall-throughput tradeoff"
# (2024): the exponential by its Taylor polynomial, which linear attention can hold in a state.
BASED = """
cascade based
input  Q[h,b,i,e], K[h,b,m,e], V[h,b,m,f]
param  scale = 1/sqrt(E)
QK[h,b,i,m] = scale * Q[h,b,i,e] * K[h,b,m,e]
A[h,b,i,m]  = 1 + QK[h,b,i,m] + QK[h,b,i,m]**2 / 2   where m <= i
Z[h,b,i]    = sum[m](A[h,b,i,m])
O[h,b,i,f]  = A[h,b,i,m] * V[h,b,m,f] / Z[h,b,i]
output O
"""

# Yang, Kautz and Hatamizadeh, "Gated delta networks" (2024): forget by alpha, and write the
# difference to what the key gives already.
GATED_DELTA = """
cascade gated_delta
import std
input  Q[h,b,i,e], K[h,b,i,e], V[h,b,i,f], beta[h,b,i], alpha[h,b,i]
init   S[h,b,0,e,f] = 0
NQ[h,b,i,e]    = l2norm[e](Q[h,b,i,e], 1e-6)
NK[h,b,i,e]    = l2norm[e](K[h,b,i,e], 1e-6)
R[h,b,i,f]     = alpha[h,b,i] * NK[h,b,i,e] * S[h,b,i,e,f]
S[h,b,i+1,e,f] = alpha[h,b,i] * S[h,b,i,e,f]
                 + beta[h,b,i] * NK[h,b,i,e] * (V[h,b,i,f] - R[h,b,i,f])
O[h,b,i,f]     = NQ[h,b,i,e] * S[h,b,i+1,e,f]
output O
"""

# A chunked form is for long sequences: in 24 steps the recurrence itself is faster.
AS_WRITTEN = {"gated_delta"}
SPECS = {"softmax": SOFTMAX, "based": BASED, "gated_delta": GATED_DELTA}


class Recall(nn.Module):
    """Embedding, one layer of the attention of a spec, and a guess of the next value."""

    def __init__(self, name: str, vocabulary: int, width: int, heads: int) -> None:
        super().__init__()
        self.kernel = cascade.compile(cascade.parse(SPECS[name]), as_written=name in AS_WRITTEN)
        self.gated = any(t.name == "beta" for t in self.kernel.spec.inputs)
        self.heads = heads
        self.embedding = nn.Embedding(vocabulary, width)
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.gates = nn.Linear(width, 2 * heads)
        nn.init.constant_(self.gates.bias[heads:], 4.0)  # remember, to begin with
        self.guess = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        before = torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
        given = {"Q": self.query(x), "K": self.key(before), "V": self.value(x)}
        given = {n: t.unflatten(-1, (self.heads, -1)).permute(2, 0, 1, 3) for n, t in given.items()}
        if self.gated:
            gates = torch.sigmoid(self.gates(x)).permute(2, 0, 1)
            given["beta"], given["alpha"] = gates[: self.heads], gates[self.heads :]
        mixed = self.kernel(**given).permute(1, 2, 0, 3).flatten(2)
        guessed: torch.Tensor = self.guess(self.out(mixed))
        return guessed


def batch(
    number: int, pairs: int, vocabulary: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of pairs and then of keys in another order, and for each key its value."""
    half = vocabulary // 2
    order = torch.rand(number, half, generator=generator).argsort(1)[:, :pairs]
    values = torch.randint(half, vocabulary, (number, pairs), generator=generator)
    shown = torch.stack([order, values], -1).flatten(1)
    asked = torch.rand(number, pairs, generator=generator).argsort(1)
    tokens = torch.cat([shown, order.gather(1, asked)], 1)
    return tokens, values.gather(1, asked)


def train(name: str, args: argparse.Namespace, progress: Progress) -> list[tuple[float, float]]:
    """The loss and the accuracy at each step, on sequences never seen before."""
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    model = Recall(name, args.vocabulary, args.width, args.heads)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.0)
    task = progress.add_task(name, total=args.steps, found="")
    curve = []
    for _ in range(args.steps):
        tokens, wanted = batch(args.batch, args.pairs, args.vocabulary, generator)
        logits = model(tokens)[:, -args.pairs :]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        right = (logits.argmax(-1) == wanted).float().mean().item()
        curve.append((loss.item(), right))
        progress.update(task, advance=1, found=f"loss {loss.item():.3f}, {right:.0%} recalled")
    return curve


def plot(curves: dict[str, list[tuple[float, float]]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, curve in curves.items():
        axes.plot([100 * right for _, right in curve], label=name)
    axes.set(xlabel="step", ylabel="values recalled (%)", ylim=(0, 101))
    axes.legend()
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, list[tuple[float, float]]]:
    parser = argparse.ArgumentParser(description="Associative recall with attention specs.")
    parser.add_argument("--only", choices=SPECS, action="append", help="one mechanism")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=8, help="pairs in a sequence")
    parser.add_argument("--vocabulary", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE", help="an .svg or .png of the curves")
    args = parser.parse_args(arguments)
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[found]}"),
        TimeRemainingColumn(),
    )
    curves = {}
    with Progress(*columns) as progress:
        for name in args.only or SPECS:
            start = time.perf_counter()
            curves[name] = train(name, args, progress)
            seconds = time.perf_counter() - start
            loss, right = (sum(x) / len(x) for x in zip(*curves[name][-20:], strict=True))
            progress.console.print(
                f"{name}: loss {loss:.3f}, {right:.1%} recalled after {args.steps} steps, "
                f"{seconds:.0f} s"
            )
    if args.plot:
        plot(curves, args.plot)
        print(f"written to {args.plot}")
    return curves


if __name__ == "__main__":
    main()
