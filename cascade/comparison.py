"""A spec beside its peers, measured side by side in one process.

In each round every candidate runs once, in turn; what is reported is the median time, and the
median over rounds of the peer's time divided by ours. Results are compared before anything is
timed. Our own time against itself shows how much of a ratio is noise.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from cascade import api
from cascade.analysis.tables import seconds, table
from cascade.diagnostics import input_error
from cascade.ir.cascade import Cascade

Progress = Callable[[int, int], None]
USUAL = {"B": 1, "H": 4, "G": 1, "P": 4096, "M": 4096, "I": 4096, "E": 64, "F": 64}
LONG = {"P", "M"}  # ranks along which integers are numbers of documents


def compare(
    spec: Cascade,
    against: list[str],
    settings: Mapping[str, Any],
    rounds: int,
    dtype: str = "f32",
    progress: Progress | None = None,
    target: str | None = None,
) -> dict[str, Any]:
    """Times, ratios and errors, and the least time that a `target` needs for the spec.

    Raises `InputError` for a peer or a spec that is not known.
    """
    api.require_package("torch", "comparing")
    import torch

    from cascade.backends.peers import EXAMPLES, KINDS, peer

    for kind in against:
        if kind not in KINDS:
            raise input_error("peer", f"there is no peer `{kind}`: {', '.join(KINDS)}")
    if spec.name not in EXAMPLES:
        known = ", ".join(EXAMPLES)
        raise input_error("peer", f"no peer is known for `{spec.name}`; there are for {known}")
    floor = None if target is None else _floor(spec, settings, target)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors, numbers = _tensors(spec, settings, dtype, device)
    kernel = api.compile(spec, "triton" if device == "cuda" else "tiled")
    ours = _first(lambda: kernel(**tensors, **numbers))
    jobs: dict[str, Callable[[], Any]] = {"cascade": ours, "cascade again": ours}
    missing = []
    for kind in against:
        function = peer(kind, spec.name, tensors)
        if function is None:
            missing.append(kind)
        else:
            jobs[kind] = function
    return {
        "spec": spec.name,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "extents": {r.name.upper(): _extent(spec, r.name, tensors) for r in spec.ranks},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": _measured(jobs, rounds, device, progress),
        "roofline": floor,
        "not_expressible": missing,
    }


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
    jobs: Mapping[str, Callable[[], Any]], rounds: int, device: str, progress: Progress | None
) -> list[dict[str, Any]]:
    import torch

    def once(job: Callable[[], Any]) -> float:
        start = time.perf_counter()
        job()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    first = {}
    results = {}
    for name, job in jobs.items():
        start = time.perf_counter()
        results[name] = job()
        first[name] = time.perf_counter() - start
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for n in range(rounds):
        for name, job in jobs.items():
            times[name].append(once(job))
        if progress is not None:
            progress(n + 1, rounds)
    rows = []
    for name in jobs:
        ratios = [a / b for a, b in zip(times[name], times["cascade"], strict=True)]
        difference = (results[name].float() - results["cascade"].float()).abs().max()
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


def text(found: Mapping[str, Any]) -> str:
    """The table: times, and how many times as long as ours each takes."""
    extents = ", ".join(f"{n}={v}" for n, v in found["extents"].items() if v is not None)
    title = f"{found['spec']}, {found['dtype']}, {extents}, {found['threads']} threads"
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
    return "\n".join(lines)
