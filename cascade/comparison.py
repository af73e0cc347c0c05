"""A spec beside its peers, measured side by side in one process.

In each round every candidate runs once, in turn, on a GPU between events; what is reported is the
median time, and the median over rounds of the peer's time divided by ours. Results are compared
before anything is timed. Our own time against itself shows how much of a ratio is noise.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cascade import api
from cascade.analysis.tables import seconds, table
from cascade.diagnostics import input_error
from cascade.ir.cascade import Cascade

Progress = Callable[[int, int], None]
USUAL = {"B": 1, "H": 4, "G": 1, "P": 4096, "M": 4096, "I": 4096, "E": 64, "F": 64}
OURS = ("cascade", "cascade again")
LONG = {"P", "M"}  # ranks along which integers are numbers of documents


def compare(
    spec: Cascade,
    against: list[str],
    settings: Mapping[str, Any],
    rounds: int,
    dtype: str = "f32",
    progress: Progress | None = None,
    target: str | None = None,
    backward: bool = False,
    tune: bool = False,
) -> dict[str, Any]:
    """Times, ratios and errors, and the least time that a `target` needs for the spec.

    A spec that is not one of the examples with peers has one, `eager`: its statements in plain
    PyTorch. With `backward` the gradients by all real inputs are measured, without the forward
    pass. With `tune` the first call on a GPU looks for the fastest tiles. Raises `InputError` for a
    peer that is not known.
    """
    api.require_package("torch", "comparing")
    import torch

    from cascade.backends.peers import KINDS, peer

    for kind in against:
        if kind not in KINDS:
            raise input_error("peer", f"there is no peer `{kind}`: {', '.join(KINDS)}")
    example = _example(spec)
    floor = None if target is None else _floor(spec, settings, target)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors, numbers = _tensors(spec, settings, dtype, device)
    if backward:
        if floor is not None:
            raise input_error("peer", "`--backward` has no roofline", "leave out `--target`")
        for t in tensors.values():
            t.requires_grad_(t.is_floating_point())
    kernel = api.compile(spec, "triton" if device == "cuda" else "tiled", tune=tune)
    ours = _first(lambda: kernel(**tensors, **numbers))
    jobs: dict[str, Callable[[], Any]] = {"cascade": ours, "cascade again": ours}
    missing, failed = [], {}
    for kind in against:
        try:
            if example is not None:
                function = peer(kind, example, tensors)
            else:
                function = _as_written(spec, tensors, numbers) if kind == "eager" else None
        except RuntimeError as error:  # no such kernel on this device, out of memory
            failed[kind] = _reason(error)
            continue
        if function is None:
            missing.append(kind)
        else:
            jobs[kind] = function
    if backward:
        jobs = {name: _gradients(job, tensors) for name, job in jobs.items()}
    return {
        "spec": spec.name,
        "pass": "backward" if backward else "forward",
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "extents": {r.name.upper(): _extent(spec, r.name, tensors) for r in spec.ranks},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": _measured(jobs, rounds, device, progress, failed),
        "roofline": floor,
        "not_expressible": missing,
        "failed": failed,
        "tuned": str(kernel.tuning) if kernel.tuning is not None else None,
    }


def _example(spec: Cascade) -> str | None:
    """The example that a spec is, whatever it is called."""
    from cascade.backends.peers import EXAMPLES

    for name in EXAMPLES:
        if replace(api.parse(api.example_text(name)), name=spec.name) == spec:
            return name
    return None


def _as_written(
    spec: Cascade, tensors: Mapping[str, Any], numbers: Mapping[str, Any]
) -> Callable[[], Any]:
    function = api.as_torch(spec)
    return _first(lambda: function(**tensors, **numbers))


def _tensors(
    spec: Cascade, settings: Mapping[str, Any], dtype: str, device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random inputs. Integers along a sequence are documents, eight of equal length; others, such
    as a window of each head, are a quarter of the keys.
    """
    import torch

    from cascade.ir.kinds import declared_kind

    known = USUAL | dict(settings)
    kinds = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for t in spec.inputs:
        shape = [known.get(r.upper(), 64) for r in t.ranks]
        if declared_kind(t.dtype) == "int" and not LONG & {r.upper() for r in t.ranks}:
            tensors[t.name] = torch.full(shape, max(1, known["M"] // 4))
        elif declared_kind(t.dtype) == "int":
            length = max(1, shape[-1] // 8)
            tensors[t.name] = (torch.arange(shape[-1]) // length).expand(shape).contiguous()
        else:
            drawn = torch.randn(shape, generator=generator)
            tensors[t.name] = drawn.to(kinds[dtype])
    carried = {r.upper() for t in spec.inputs for r in t.ranks}
    numbers = {n: v for n, v in settings.items() if n not in carried}
    return {n: t.to(device) for n, t in tensors.items()}, numbers


def _gradients(job: Callable[[], Any], tensors: Mapping[str, Any]) -> Callable[[], Any]:
    """The backward pass of a job, again and again from one forward pass."""
    import torch

    wanted = [t for t in tensors.values() if t.requires_grad]
    made: list[Any] = []

    def run() -> Any:
        if not made:
            out = job()
            generator = torch.Generator().manual_seed(1)
            made.extend((out, torch.randn(out.shape, generator=generator).to(out)))
        return torch.autograd.grad(made[0], wanted, made[1], retain_graph=True)

    return run


def _floor(spec: Cascade, settings: Mapping[str, Any], target: str) -> dict[str, Any]:
    """The roofline of the spec on a target, from the work that it cannot do without."""
    known = {n: v for n, v in (USUAL | dict(settings)).items() if n.lower() in spec.rank}
    floor: Any = api.analyse(spec, known, target).to_dict()["roofline"]
    return {"target": floor["target"], "floor_s": floor["floor_s"], "bound": floor["bound"]}


def _extent(spec: Cascade, rank: str, tensors: Mapping[str, Any]) -> int | None:
    for t in spec.inputs:
        if rank in t.ranks:
            return int(tensors[t.name].shape[t.ranks.index(rank)])
    return None


def _first(job: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        out = job()
        return next(iter(out.values())) if isinstance(out, dict) else out

    return run


def _measured(
    jobs: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: str,
    progress: Progress | None,
    failed: dict[str, str],
) -> list[dict[str, Any]]:
    first, results = {}, {}
    for name, job in jobs.items():
        start = time.perf_counter()
        try:
            results[name] = job()
            _finish(device)
        except RuntimeError as error:
            if name in OURS:
                raise
            failed[name] = _reason(error)
            continue
        first[name] = time.perf_counter() - start
    jobs = {name: job for name, job in jobs.items() if name in results}
    if device == "cuda":
        from cascade.backends.triton.tuning import times_by_events

        listed = times_by_events(list(jobs.values()), rounds)
    else:
        listed = _times(list(jobs.values()), rounds, progress)
    times = dict(zip(jobs, zip(*listed, strict=True), strict=True))
    rows = []
    for name in jobs:
        ratios = [a / b for a, b in zip(times[name], times["cascade"], strict=True)]
        difference = max(
            (a.float() - b.float()).abs().max()
            for a, b in zip(_each(results[name]), _each(results["cascade"]), strict=True)
        )
        rows.append(
            {
                "name": name,
                "first_s": first[name],
                "median_s": statistics.median(times[name]),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "difference": float(difference),
            }
        )
    return rows


def _times(
    jobs: list[Callable[[], Any]], rounds: int, progress: Progress | None
) -> list[list[float]]:
    """Seconds of each job, by rounds."""
    found: list[list[float]] = []
    for n in range(rounds):
        found.append([])
        for job in jobs:
            start = time.perf_counter()
            job()
            found[-1].append(time.perf_counter() - start)
        if progress is not None:
            progress(n + 1, rounds)
    return found


def _finish(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:80]}"


def _each(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def text(found: Mapping[str, Any]) -> str:
    """The table: times, and how many times as long as ours each takes."""
    extents = ", ".join(f"{n}={v}" for n, v in found["extents"].items() if v is not None)
    name = found["spec"] + (", backward" if found["pass"] == "backward" else "")
    title = f"{name}, {found['dtype']}, {extents}, {found['threads']} threads"
    rows = [
        [
            r["name"],
            seconds(r["median_s"]),
            f"{r['ratio']:.2f}",
            f"{r['ratio_low']:.2f} to {r['ratio_high']:.2f}",
            f"{r['difference']:.1e}",
            seconds(r["first_s"]),
        ]
        for r in found["rows"]
    ]
    header = ["", "median", "peer/ours", "of all rounds", "difference", "first call"]
    lines = [title, "", table(header, rows, indent="")]
    if found["roofline"] is not None:
        floor = found["roofline"]
        lines.append(f"{floor['target']} needs {seconds(floor['floor_s'])} ({floor['bound']})")
    if found["not_expressible"]:
        lines.append(f"cannot express it: {', '.join(found['not_expressible'])}")
    lines += [f"{name} did not run: {reason}" for name, reason in found["failed"].items()]
    if found["tuned"] is not None:
        lines += ["", found["tuned"]]
    return "\n".join(lines)
