"""A cascade as a function of torch tensors, by generated Triton kernels.

Sources are made for the widths and types of a call and kept in a folder by the hash of their text;
lengths are numbers of a call, so one source serves them all. With `tune`, lengths up to the same
power of two share what was found to be fastest on the device. Without a GPU the kernels run in the
interpreter of triton, where `TRITON_INTERPRET=1` was set before triton was imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cascade.backends.triton.aot import CAPABILITIES
from cascade.backends.triton.candidates import Call, Machine, Planned, machine, plan, shortlist
from cascade.backends.triton.host import number_keyword
from cascade.backends.triton.parallel import Job, compile_all
from cascade.backends.triton.tiles import CANDIDATES, Candidate, Cut, Made, chosen, first
from cascade.backends.triton.tuning import (
    Store,
    Timer,
    Tuning,
    bucket,
    by_events,
    measured,
    tuned,
    versions,
)
from cascade.backends.triton.writer import ident
from cascade.diagnostics import input_error
from cascade.ir.arguments import check_inputs, separated, with_settings
from cascade.ir.cascade import Cascade
from cascade.ir.extents import Number, bind
from cascade.ir.kinds import EIGHT_BITS, is_wide_real
from cascade.schedule.lists import few_tiles
from cascade.schedule.pack import few_rows
from cascade.schedule.roles import CONTRACTED
from cascade.schedule.small import WIDTH, small_ranks

SMALL = 2**16  # elements of a tensor that is read to see how far it bounds loops
COMPILING = 3.0  # seconds after which no further candidate is compiled

KINDS = {
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool",
    "float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16",
    "float8_e4m3fn": "f8e4m3", "float8_e5m2": "f8e5m2",
}  # fmt: skip


@dataclass
class TritonKernel:
    """Runs a cascade by Triton. `tiles` fixes tiles by rank, `split` in how many splits loops are
    cut (AUTO: by the number of instances and of multiprocessors).

    `descriptors` says whether loads go by tensor descriptors; None leaves it to the device and to
    the alignment of the tensors. With `tune`, a short list of candidates is timed on the device at
    the first call of a kind, by `timer` where it is given; `tuning` is what was tried last.
    """

    spec: Cascade
    tiles: Mapping[str, int] = field(default_factory=dict)
    as_written: bool = False
    descriptors: bool | None = None
    split: int = 1
    tune: bool = False
    timer: Timer | None = None
    tunings: list[Tuning] = field(default_factory=list, repr=False)
    known: dict[tuple[Any, ...], list[tuple[Made, ModuleType]]] = field(
        default_factory=dict, repr=False
    )

    def __call__(self, *args: Any, **given: Any) -> Any:
        """The output, or a dictionary of the outputs where there are several.

        Keywords are inputs (torch tensors on one device) and settings. Real outputs have the type
        of the first real input. Raises `InputError`.
        """
        tensors, settings = separated(self.spec, args, given)
        outputs = self.launch(tensors, settings)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def launch(self, tensors: Mapping[str, Any], settings: Mapping[str, Number]) -> dict[str, Any]:
        """The outputs by name. Raises `InputError`."""
        _check_device(tensors)
        _, module = self.made(tensors, settings)
        with np.errstate(all="ignore"):  # the interpreter is as silent as a device
            found: dict[str, Any] = module.run(**_arguments(tensors, settings, module))
        return found

    def made(
        self, tensors: Mapping[str, Any], settings: Mapping[str, Number]
    ) -> tuple[Made, ModuleType]:
        """The source for tensors of these types and widths, and its module."""
        spec = typed(self.spec, tensors, settings)
        shapes = {n: tuple(t.shape) for n, t in tensors.items()}
        bound = bind(spec, shapes, settings)
        small = small_ranks(spec, bound.extents)
        classes = tuple(
            n if r in small else (n <= WIDTH, n <= CONTRACTED, n < 16)
            for r, n in bound.extents.items()
        )
        tunes = self._tunes(tensors)
        lengths = _lengths(spec, bound.extents) if tunes else ()
        by_descriptor = self._by_descriptor(tensors)
        few = (
            few_rows(spec, bound.extents),
            few_tiles(spec, bound.extents, self.tiles, CANDIDATES[0].stream),
        )
        numbers = tuple(sorted((n, repr(v)) for n, v in settings.items()))  # -0.0 is not 0.0
        key = (spec, classes, numbers, by_descriptor, few, lengths)
        known = self.known.setdefault(key, [])
        for earlier, module in known:
            if all(bound.values.get(n, size) == size for n, size in earlier.program.widths):
                return earlier, module
        extents = {**bound.extents, **{n: v for n, v in bound.values.items() if type(v) is int}}
        made: Made | None = None
        waits = tunes and _is_captured(tensors)  # nothing can be timed now, and may be later
        if tunes and not waits:
            call = self._call(spec, bound.values, extents, tensors, by_descriptor)
            made = self._tuned(call, tensors, settings)
        if made is None:
            made = self._make(spec, extents, tensors, by_descriptor)
        found = made, _module(made.source)
        if not waits:
            known.append(found)
        return found

    def _by_descriptor(self, tensors: Mapping[str, Any]) -> bool:
        if self.descriptors is not None:
            return self.descriptors
        if not _on_device(tensors):
            return False
        import torch

        newest = torch.cuda.get_device_capability(next(iter(tensors.values())).device)[0] >= 9
        newest = newest and not torch.version.hip
        return newest and all(aligned(t) for t in tensors.values() if _may_be_described(t))

    def _make(
        self,
        spec: Cascade,
        extents: dict[str, int],
        tensors: Mapping[str, Any],
        by_descriptor: bool,
    ) -> Made:
        device = next((t.device for t in tensors.values()), None)
        if device is None or device.type != "cuda":
            return first(spec, extents, self.tiles, self.as_written, by_descriptor, Cut(self.split))
        import torch

        major, minor = torch.cuda.get_device_capability(device)
        target = f"sm_{major}{minor}"
        if target not in CAPABILITIES or torch.version.hip:  # nothing is known to choose by
            return first(spec, extents, self.tiles, self.as_written, by_descriptor, Cut(self.split))
        dtype = next((t.dtype for t in spec.inputs if is_wide_real(t.dtype)), None) or "f32"
        cut = Cut(self.split, torch.cuda.get_device_properties(device).multi_processor_count)
        return chosen(
            spec, extents, target, dtype, self.tiles, self.as_written,
            descriptors=by_descriptor, cut=cut,
        )  # fmt: skip

    # -- tuning
    @property
    def tuning(self) -> Tuning | None:
        """What was tried for the last kind of call that was tuned; prints as a table."""
        return self.tunings[-1] if self.tunings else None

    def _tunes(self, tensors: Mapping[str, Any]) -> bool:
        """Whether there is something to time on, or a timer of its own."""
        return self.tune and bool(tensors) and (self.timer is not None or _on_device(tensors))

    def _call(
        self,
        spec: Cascade,
        values: Mapping[str, Number],
        extents: Mapping[str, int],
        tensors: Mapping[str, Any],
        by_descriptor: bool,
    ) -> Call:
        on = _machine(tensors)
        small = {
            n: t.detach().cpu().numpy()
            for n, t in tensors.items()
            if not t.is_floating_point() and t.numel() <= SMALL
        }
        cut = Cut(self.split, on.target.multiprocessors)
        return Call(spec, values, extents, small, self.tiles, self.as_written, by_descriptor, cut)

    def _tuned(
        self, call: Call, tensors: Mapping[str, Any], settings: Mapping[str, Number]
    ) -> Made | None:
        """The fastest candidate, by an earlier run or by timing; None where none could be run."""
        on = _machine(tensors)
        plans: dict[Candidate, Planned] = {}

        def job(candidate: Candidate) -> Job:
            module = _module(plans[candidate].made(call.descriptors).source)
            arguments = _arguments(tensors, settings, module)
            return module, lambda: module.run(**arguments)

        def measure() -> Tuning:
            found = shortlist(call, on)
            plans.update((p.candidate, p) for p in found.planned)
            listed = [(p.candidate, p.seconds) for p in found.planned]
            late: dict[Candidate, str] = {}
            if _on_device(tensors):
                jobs = [job(c) for c in plans]
                late = dict(zip(plans, compile_all(jobs, COMPILING), strict=True))
                late = {c: reason for c, reason in late.items() if reason}
            timer = self.timer or _timer(tensors)
            tried, best = measured(listed, lambda c: job(c)[1], timer, late)
            return Tuning(call.spec.name, on.name, tried, best, found.left_out)

        self.tunings.append(tuned(Store(cache_folder()), _key(call, on), measure))
        best = self.tunings[-1].chosen
        if best is None:
            return None
        planned = plans.get(best) or Planned(best, *plan(call, best), None)
        return planned.made(call.descriptors)


def _on_device(tensors: Mapping[str, Any]) -> bool:
    return bool(tensors) and all(t.device.type == "cuda" for t in tensors.values())


def _is_captured(tensors: Mapping[str, Any]) -> bool:
    """Whether launches go into a CUDA graph now."""
    if not _on_device(tensors):
        return False
    import torch

    with torch.cuda.device(next(iter(tensors.values())).device):
        return bool(torch.cuda.is_current_stream_capturing())


def _machine(tensors: Mapping[str, Any]) -> Machine:
    """The device of the tensors; for a processor, whose timer is not ours, the usual one."""
    device = next(iter(tensors.values())).device
    if device.type != "cuda":
        return machine(device.type, "sm_90")
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    number = torch.cuda.get_device_properties(device).multi_processor_count
    return machine(torch.cuda.get_device_name(device), f"sm_{major}{minor}", number)


def _timer(tensors: Mapping[str, Any]) -> Timer:
    import torch

    device = next(iter(tensors.values())).device

    def timer(call: Any) -> float:
        with torch.cuda.device(device), torch.no_grad():
            return by_events(call)

    return timer


def _lengths(spec: Cascade, extents: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Extents by rank: widths as they are, lengths up to the next power of two."""
    exact = small_ranks(spec, extents) | _width_ranks(spec)
    return tuple((r, n if r in exact else bucket(n)) for r, n in extents.items())


def _key(call: Call, on: Machine) -> dict[str, Any]:
    """What the fastest candidate depends on, as JSON."""
    ranks = {r.name for r in call.spec.ranks}
    params = {n: v for n, v in call.values.items() if n.lower() not in ranks}
    return {
        "cascade": str(call.spec),
        "types": {t.name: t.dtype for t in call.spec.inputs},
        "extents": dict(_lengths(call.spec, {r: n for r, n in call.extents.items() if r in ranks})),
        "params": {n: bucket(v) for n, v in params.items() if type(v) is int and v > 0},
        "device": [on.name, on.architecture, on.target.multiprocessors],
        "tiles": dict(call.tiles),
        "split": call.cut.number,
        "as_written": call.as_written,
        "loads": "descriptors" if call.descriptors else "pointers",
        "versions": versions(),
    }


def _may_be_described(tensor: Any) -> Any:
    """Whether kernels load a tensor by descriptors if they can."""
    name = str(tensor.dtype).removeprefix("torch.")
    return tensor.is_floating_point() or KINDS.get(name) in EIGHT_BITS


def aligned(tensor: Any) -> bool:
    """Whether a descriptor can copy from a tensor, as the emitted test of the same name says."""
    steps = [s * tensor.element_size() for s in tensor.stride()[:-1]]
    last = tensor.dim() < 2 or tensor.stride(-1) == 1
    return last and all(n % 16 == 0 for n in (tensor.data_ptr(), *steps))


def typed(
    spec: Cascade, tensors: Mapping[str, Any], settings: Mapping[str, Number] | None = None
) -> Cascade:
    """The spec with the types that the arguments have; a param that is set to a real is one."""
    check_inputs(spec, tensors)
    inputs = []
    for t in spec.inputs:
        name = str(tensors[t.name].dtype).removeprefix("torch.")
        if name not in KINDS:
            raise input_error("input-type", f"`{t.name}` has type {name}, which no kernel takes")
        inputs.append(replace(t, dtype=KINDS[name]))
    return with_settings(replace(spec, inputs=tuple(inputs)), settings or {})


def _width_ranks(spec: Cascade) -> set[str]:
    """Ranks along which every tensor that has them is contiguous: where widths are found."""
    last = {t.ranks[-1] for t in spec.inputs if t.ranks}
    return last - {r for t in spec.inputs for r in t.ranks[:-1]}


def _arguments(
    tensors: Mapping[str, Any], settings: Mapping[str, Number], module: ModuleType
) -> dict[str, Any]:
    """Tensors, and the settings that do not follow from their shapes, as the module names them."""
    taken = {ident(n) for n in tensors}
    numbers = {number_keyword(n, taken): v for n, v in settings.items()}
    accepted = inspect.signature(module.run).parameters
    given = {ident(n): t for n, t in tensors.items()} | numbers
    return {n: v for n, v in given.items() if n in accepted}


def _check_device(tensors: Mapping[str, Any]) -> None:
    torch = sys.modules.get("torch")
    for name, value in tensors.items():
        if torch is None or not isinstance(value, torch.Tensor):
            raise input_error("input-type", f"`{name}` is no torch tensor, as Triton kernels need")
    devices = {str(t.device) for t in tensors.values()}
    if len(devices) > 1:
        raise input_error("device", f"the inputs are on several devices: {', '.join(devices)}")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if devices and not next(iter(devices)).startswith("cuda") and not interpreted:
        raise input_error(
            "device",
            "the inputs are on the CPU, and Triton kernels run on a GPU",
            "`cascade.compile(spec)` runs on the CPU",
            "TRITON_INTERPRET=1, set before triton is imported, interprets the kernels",
        )


def cache_folder() -> Path:
    """Where sources are kept: `$CASCADE_CACHE`, or `cascade` in the user's cache folder."""
    given = os.environ.get("CASCADE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(base) / "cascade"


def _module(source: str) -> ModuleType:
    """The source as a module, from a file that is named after its hash; a text has one, so that it
    is compiled once.
    """
    return _loaded(source, cache_folder())


@lru_cache(maxsize=256)
def _loaded(source: str, folder: Path) -> ModuleType:
    name = "kernels_" + hashlib.sha256(source.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    if not path.exists() or path.read_text() != source:
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, suffix=".tmp") as new:
            new.write(source)
        os.replace(new.name, path)  # whole or not at all, whoever else writes it
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
