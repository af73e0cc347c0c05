"""The composition root: the only module that names frontends and backends.

Everything the command line does is a call of a function here; imports are lazy, by what is asked.
A function that takes a spec takes a cascade, its text, or the path of a file.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.diagnostics import Diagnostic, Source, did_you_mean, fail, input_error
from cascade.files import check_output, read_arrays, read_source, write_arrays
from cascade.ir.cascade import Cascade

if TYPE_CHECKING:
    import numpy as np

    from cascade.analysis.report import Report
    from cascade.backends.kernel import TiledKernel
    from cascade.backends.triton.launch import TritonKernel
    from cascade.gradients import Gradients
    from cascade.schedule.choose import Schedule
    from cascade.schedule.program import Program
    from cascade.transforms.chunk import Chunked
    from cascade.transforms.derive import Derivation

Number = int | float | bool
Spec = Cascade | str | Path  # a cascade, its text (with a line end), or the path of a file
Progress = Callable[[int, int], None]

MOST_DERIVED = 60  # statements up to which a report shows the derived passes, too
AGREEMENT_SINGLE = 1e-4  # the same, where one of them computes in float32
AGREEMENT = 1e-9  # largest difference of two evaluations, relative to 1 or the value

__all__ = [
    "analyse",
    "as_torch",
    "check_output",
    "compile",
    "derive",
    "draw",
    "gradient",
    "load",
    "parse",
    "read_arrays",
    "run",
    "schedule",
    "trace",
    "write_arrays",
    "write_kernel",
]


def _cascade(spec: Spec) -> Cascade:
    """What a function was given for a spec, as a cascade. Raises `CascadeError`."""
    if isinstance(spec, Cascade):
        return spec
    from cascade.integrations.specs import cascade_of

    return cascade_of(spec)


def parse(text: str, name: str = "<text>") -> Cascade:
    """The checked cascade of a text. Raises `CascadeError` with every mistake found."""
    from cascade.frontends.dsl import lower, parse

    return lower(parse(Source(name, text)), name)


def load(path: str | Path) -> Cascade:
    """The checked cascade of a file. Raises `CascadeError`."""
    from cascade.frontends.dsl import lower, parse

    source = read_source(path)
    return lower(parse(source), source.name)


def analyse(
    spec: Spec,
    settings: Mapping[str, Number] | None = None,
    target: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Report:
    """Passes with their proof, footprints, work, traffic and bounds.

    `settings` gives extents and params (`{"M": 65536}`), `inputs` arrays whose shapes give them;
    without either the report is symbolic. `target` names a file of `cascade/targets` or a path to
    one.
    """
    from cascade.analysis.report import analyse

    spec = _cascade(spec)
    shapes = {name: tuple(getattr(a, "shape", ())) for name, a in (inputs or {}).items()}
    report = analyse(spec, dict(settings or {}), shapes, target)
    if len(spec.einsums) > MOST_DERIVED:
        return report
    from cascade.transforms.derive import derived_passes

    return replace(report, derived_passes=derived_passes(spec))


def derive(spec: Spec, steps: int | None = None) -> Derivation:
    """The form with the fewest passes and the steps that lead to it, at most `steps` of them."""
    from cascade.transforms.derive import derive

    return derive(_cascade(spec), steps)


def gradient(spec: Spec, wrt: Sequence[str] | None = None, save: bool = True) -> Gradients:
    """The cascade of the gradients of a cascade, by all its real inputs or those of `wrt`.

    With `save` the backward cascade reads row statistics and outputs that the forward one leaves;
    without, it makes everything again. Raises `CascadeError` for what has no derivative.
    """
    from cascade.gradients import gradients

    return gradients(_cascade(spec), wrt, save)


def as_torch(spec: Spec) -> Callable[..., Any]:
    """The cascade as a function in plain PyTorch: eager, whole tensors, for comparison."""
    from cascade.integrations.pytorch.eager import as_torch

    return as_torch(_cascade(spec))


def trace(function: Callable[..., Any], *examples: Any, name: str | None = None) -> Cascade:
    """The cascade of a PyTorch function, from one run on example tensors.

    Parameters become inputs under their names, and dimensions ranks; sizes stay open. Sizes that
    should differ must differ in the examples; a dimension of size 1 broadcasts. Scores set to minus
    infinity are absent. Raises `CascadeError` for an operation without a form, with its line.
    """
    from cascade.frontends.torch_function import trace

    return trace(function, *examples, name=name)


def check_gradient(spec: Spec, found: Gradients, trials: int = 12) -> dict[str, Any]:
    """Compare a derived gradient with central differences on random data, in float64."""
    from cascade.backends.differences import differences

    spec = _cascade(spec)
    made = differences(spec, found, 0, trials)
    smooth = [t for t in made if t.smooth]
    wrong = [t for t in made if not t.ok]
    worst = max((t.error for t in smooth), default=0.0)
    return {
        "ok": not wrong,
        "trials": len(made),
        "smooth": len(smooth),
        "disagree": len(wrong),
        "worst": worst,
    }


def chunk(spec: Spec) -> Chunked:
    """The chunked form of prefix sums and recurrences, with what was refused and why.

    Raises `CascadeError` where nothing in the cascade asks for one.
    """
    from cascade.transforms.chunk import chunk

    spec = _cascade(spec)
    found = chunk(spec)
    if found is None:
        raise fail(
            "no-chunks",
            f"`{spec.name}` has no sum over a prefix and no recurrence to chunk",
            hints=("`cascade derive` without `--chunk` looks for fewer passes",),
        )
    return found


def check_derivation(
    spec: Spec, derivation: Derivation | Chunked, trials: int = 21
) -> dict[str, Any]:
    """Replay a derivation: each obligation by itself, then both cascades on random and extreme
    data. A chunked form is compared only.
    """
    from cascade.backends.compare import compare
    from cascade.transforms.check import CheckReport, check
    from cascade.transforms.derive import Derivation

    spec = _cascade(spec)
    proved = check(derivation) if isinstance(derivation, Derivation) else None
    report = proved or CheckReport(spec.name, ())
    compared = compare(spec, derivation.result, 0, trials)
    wrong = [c for c in compared if not c.ok]
    return {
        "ok": report.ok and not wrong,
        "obligations": report.to_dict(),
        "text": str(report) if proved else f"{spec.name}: a chunked form, compared as a whole",
        "comparisons": len(compared),
        "disagreements": len(wrong),
    }


def run(
    spec: Spec,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Number] | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs, by the reference evaluator: float64, whole tensors. Raises `InputError`."""
    from cascade.backends.reference import evaluate

    return evaluate(_cascade(spec), inputs, settings, progress)


def schedule(
    spec: Spec,
    settings: Mapping[str, Number] | None = None,
    tiles: Mapping[str, int] | None = None,
    as_written: bool = False,
    split: int | str = 1,
) -> Schedule:
    """The Program of a cascade: its kernels, loops and tiles.

    `settings` gives extents and params that are known beforehand, `tiles` the number of coordinates
    of a tile by rank, `split` in how many splits the rank of a loop is cut ("auto": by the number
    of instances). Raises `CascadeError` where a step has no place in a kernel.
    """
    from cascade.schedule.choose import schedule
    from cascade.schedule.sizes import Sizes

    spec = _cascade(spec)
    check_tiles(spec, tiles or {})
    extents = known_extents(spec, settings or {})
    sizes = Sizes(extents, tiles=dict(tiles or {}), split=split_number(split))
    return schedule(spec, sizes, as_written)


def known_extents(spec: Cascade, settings: Mapping[str, Number]) -> dict[str, int]:
    """Extents by rank, and integer params by name, of settings. Raises `InputError`."""
    from cascade.ir.extents import check_settings

    known = {n: v for n, v in check_settings(spec, settings).items() if type(v) is int}
    return {n.lower() if n.lower() in spec.rank else n: v for n, v in known.items()}


def check_tiles(spec: Cascade, tiles: Mapping[str, int]) -> None:
    """Raise `InputError` for a tile of a rank that the spec has not, or of no coordinates."""
    for rank, size in tiles.items():
        if rank not in spec.rank:
            hints = did_you_mean(rank, spec.rank) or (f"it has {', '.join(spec.rank)}",)
            raise input_error("tile", f"`{spec.name}` has no rank `{rank}`", *hints)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise input_error("tile", f"a tile of `{rank}` has 1 coordinate or more, not {size}")


def split_number(split: int | str) -> int:
    """The number of splits, AUTO for "auto". Raises `InputError` for another word or number."""
    from cascade.schedule.sizes import AUTO

    if split == "auto":
        return AUTO
    if not isinstance(split, int) or isinstance(split, bool) or split < 1:
        raise input_error("split", f'splits are 1 or more, or "auto", not {split!r}')
    return split


def compile(
    spec: Spec,
    backend: str = "tiled",
    tiles: Mapping[str, int] | None = None,
    as_written: bool = False,
    split: int | str = 1,
    tune: bool = False,
) -> TiledKernel | TritonKernel:
    """A function of arrays: `kernel = compile(spec); out = kernel(Q=q, K=k, V=v)`.

    `tiled` runs the Program of the spec in NumPy, float32, on all processors: NumPy arrays give
    NumPy arrays. `triton` generates kernels and runs them on a GPU. Torch tensors give torch
    tensors of their type, and autograd goes through them (docs/pytorch.md).

    `split` cuts the rank of a loop in so many splits, which run side by side and are merged:
    for few long rows, as in decoding. "auto" takes what fills the device; the order of additions
    then depends on the size of the batch, and with a number it does not.

    With `tune`, the first call on a GPU for lengths of an order of magnitude times a short list of
    tiles, warps and stages, and keeps what it finds on disk; `kernel.tuning` prints as a table of
    what was tried. On a CPU nothing is timed.
    """
    spec = _cascade(spec)
    check_tiles(spec, tiles or {})
    number = split_number(split)
    if backend in ("tiled", "triton"):
        from cascade.integrations.kernels import kernel

        return kernel(spec, backend, dict(tiles or {}), as_written, number, tune)
    hints = did_you_mean(backend, ["tiled", "triton"])
    raise input_error("backend", f"there is no backend `{backend}`: tiled or triton", *hints)


def write_kernel(
    spec: Spec,
    path: str,
    settings: Mapping[str, Number],
    target: str | None = None,
    dtype: str = "bf16",
    tiles: Mapping[str, int] | None = None,
    as_written: bool = False,
    progress: Progress | None = None,
    loads: str = "pointers",
    split: int | str = 1,
    stages: int | None = None,
) -> dict[str, Any]:
    """Write Triton kernels to a .py file and their facts to a .json beside it; returns the facts.

    Without a `target` nothing is compiled: the source is that of the largest tiles. `settings` has
    the extents of heads (64 where they are not given). `loads` are by `pointers`, by
    `descriptors`, which ask for aligned tensors, or `specialised`: by descriptors and in warps of
    their own. `split` is as in `compile`, `stages` the tiles that are on their way at once. Raises
    `InputError`, also where what is set does not fit the target.
    """
    import json

    from cascade.backends.triton.tiles import Cut, chosen, first

    spec = _cascade(spec)
    if not path.endswith(".py"):
        raise input_error("file-write", f"{path} is no .py file")
    check_tiles(spec, tiles or {})
    extents = known_extents(spec, settings)
    cut = Cut(split_number(split))
    boxes, apart = loads == "descriptors", loads == "specialised"
    if target is None:
        made = first(spec, extents, tiles, as_written, boxes, cut, stages, apart)
    else:
        require_package("triton", "compiling ahead of time")
        made = chosen(
            spec, extents, target, dtype, tiles, as_written, progress, boxes, cut, stages, apart
        )
    assumed = assumed_sizes(made.program, settings)
    assumed += unused_tiles(spec, extents, tiles or {}, as_written)
    found: dict[str, Any] = {
        "name": spec.name,
        "written": path,
        "warnings": [d.to_dict() for d in assumed],
        "form": made.schedule.form.how,
        "widths": dict(made.program.widths),
        "tiles": {"rows": made.candidate.rows, "stream": made.candidate.stream} | dict(tiles or {}),
        "num_warps": made.candidate.warps,
        "num_stages": made.candidate.stages,
        "split": split,
        "dtype": dtype,
        "loads": loads,
        "kernels": [f.to_dict() for f in made.facts],
    }
    new_text(path, made.source)
    new_text(f"{path[:-3]}.json", json.dumps(found, indent=2) + "\n")
    return found


def assumed_sizes(program: Program, settings: Mapping[str, Number]) -> tuple[Diagnostic, ...]:
    """A warning of the sizes that kernels have for good and that nobody gave."""
    from cascade.ir.expr import Const

    given = {*settings, *(n for n, e in program.values if isinstance(e, Const))}
    sizes = [(n, size) for n, size in program.widths if n not in given]
    if not sizes:
        return ()
    only = f"for {', '.join(f'{n} = {size}' for n, size in sizes)} only"
    return (
        Diagnostic(
            "assumed-size",
            f"the kernels run {only}: tiles hold these ranks whole, and no size was given",
            hints=(f"give the sizes: `--set {','.join(f'{n}=…' for n, _ in sizes)}`",),
            severity="warning",
        ),
    )


def unused_tiles(
    spec: Cascade, extents: Mapping[str, int], tiles: Mapping[str, int], as_written: bool
) -> tuple[Diagnostic, ...]:
    """A warning of each rank that has no tiles, although a size of them is set."""
    from cascade.schedule.choose import schedule
    from cascade.schedule.sizes import Sizes

    def program(**more: int) -> Program:
        return schedule(spec, Sizes(extents, tiles={**tiles, **more}), as_written).program

    return tuple(
        Diagnostic(
            "unused-tile",
            f"the kernels have no tiles of `{rank}`: {size} changes nothing",
            hints=("ranks of rows and of loops have tiles: `cascade schedule` shows them",),
            severity="warning",
        )
        for rank, size in tiles.items()
        if program() == program(**{rank: 2 * size})
    )


def draw_comparison(found: Mapping[str, Any], path: str) -> None:
    """Draw what `cascade bench` measured into an .svg or .png file. Raises `InputError`."""
    from cascade.backends.bars import draw

    draw(found, path)


def require_package(name: str, what: str) -> None:
    """Raise `InputError` where an optional package is missing."""
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise input_error(
            "missing-package",
            f"{what} needs the package {name}",
            f"install it: `pip install {name}`",
        )


def kernel_text(found: Mapping[str, Any]) -> str:
    """What was written, a line for each kernel, and what was assumed."""
    from cascade.analysis.tables import table

    lines = [f"{found['name']}: {found['form']}, written to {found['written']}"]
    if found["kernels"]:
        header = ["kernel", "target", "registers", "spilled", "shared", "matrix", "wgmma"]
        header += ["warps", "stages"]
        rows = [
            [k["kernel"], k["target"], str(k["registers"]), f"{k['spill_bytes']} B",
             f"{k['shared_bytes']} B", str(k["tensor_core_instructions"]),
             str(k["wgmma_instructions"]), str(k["num_warps"]), str(k["num_stages"])]
            for k in found["kernels"]
        ]  # fmt: skip
        lines.append(table(header, rows, indent=""))
    for w in found["warnings"]:
        lines.append(f"warning[{w['code']}]: {w['message']}")
        lines += [f"  hint: {hint}" for hint in w["hints"]]
    return "\n".join(lines)


def run_program(
    spec: Spec,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Number],
    tiles: Mapping[str, int],
    progress: Progress | None = None,
    measure: bool = False,
    split: int | str = 1,
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any] | None]:
    """The outputs by the Program in NumPy, and, to `measure`, what was predicted and counted."""
    from cascade.backends.kernel import TiledKernel

    spec = _cascade(spec)
    check_tiles(spec, tiles)
    kernel = TiledKernel(spec, dict(tiles), split=split_number(split))
    result = kernel.run(inputs, settings, progress)
    return result.outputs, kernel.measured(inputs, settings, result) if measure else None


def recheck(
    spec: Spec,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Number] | None,
    outputs: Mapping[str, Any],
    single: bool = False,
) -> list[dict[str, Any]]:
    """Compute sampled points of the outputs again, from the definition, and compare.

    `single` says that the outputs were computed in float32.
    """
    from cascade.backends.pointwise import check

    spec = _cascade(spec)
    compared = check(spec, inputs, settings, outputs)
    least = AGREEMENT_SINGLE if single else AGREEMENT
    return [r.to_dict() | {"agrees": r.error <= least} for r in compared]


def random_inputs(
    spec: Spec, inputs: Mapping[str, Any], settings: Mapping[str, Number], seed: int
) -> dict[str, Any]:
    """The inputs, with those that are missing drawn from N(0, 1). Extents must be known.

    Integer and truth-valued inputs mean something, so they are never drawn. Raises `InputError`.
    """
    import numpy as np

    from cascade.ir.extents import bind
    from cascade.ir.kinds import declared_kind, required_kinds

    spec = _cascade(spec)
    shapes = {name: np.shape(a) for name, a in inputs.items()}
    bindings = bind(spec, shapes, settings)
    needed = required_kinds(spec)
    generator = np.random.default_rng(seed)
    arrays = dict(inputs)
    for t in spec.inputs:
        if t.name in arrays:
            continue
        if needed.get(t.name, declared_kind(t.dtype)) in ("int", "bool"):
            raise input_error(
                "missing-input", f"the input `{t.name}` is not a real tensor and cannot be drawn"
            )
        arrays[t.name] = generator.standard_normal([bindings.extents[r] for r in t.ranks])
    return arrays


# -- what the command line prints


def summary(spec: Cascade) -> dict[str, Any]:
    """What a spec declares, for programs."""
    return {
        "name": spec.name,
        "inputs": {t.name: list(t.ranks) for t in spec.inputs},
        "outputs": {name: list(spec.tensors[name].ranks) for name in spec.outputs},
        "params": [p.name for p in spec.params],
        "ranks": [r.name for r in spec.ranks],
        "statements": len(spec.einsums),
        "warnings": [w.to_dict() for w in spec.warnings],
    }


def describe(spec: Cascade) -> str:
    """What a spec declares, on one line."""
    count = len(spec.einsums)
    return f"{spec.name}: {spec.signature()} ({count} statement{'s' * (count != 1)})"


def format_file(path: str) -> tuple[str, str]:
    """The text of a file, and its canonical form."""
    from cascade.frontends.dsl.format import format_text

    source = read_source(path)
    return source.text, format_text(source)


def emit(path: str, spec: Cascade, source: str) -> None:
    """Write a cascade as canonical text. Never over the file it came from. Raises `InputError`."""
    from cascade.frontends.dsl.format import format_text

    if Path(path).exists() and Path(source).exists() and Path(path).samefile(source):
        raise input_error("file-write", f"{path} is the spec itself", "choose another file")
    new_text(path, format_text(Source(path, str(spec))))


def replace_text(path: str, text: str) -> None:
    """Replace a file as a whole: a failure leaves the old one. Raises `InputError`."""
    target = Path(path).resolve()
    try:
        mode = target.stat().st_mode
        with tempfile.NamedTemporaryFile(
            "w", dir=target.parent, delete=False, encoding="utf-8"
        ) as new:
            new.write(text)
        os.chmod(new.name, mode)
        os.replace(new.name, target)
    except OSError as e:
        raise input_error("file-write", f"{path} cannot be written: {e.strerror}") from None


def check_new(path: str | Path, hint: str) -> None:
    """Raises `InputError` for a file that exists."""
    if Path(path).exists():
        raise input_error("file-write", f"{path} exists already", hint)


def new_text(path: str, text: str) -> None:
    """Write a new file, or replace one as a whole. Raises `InputError`."""
    try:
        if Path(path).exists():
            replace_text(path, text)
        else:
            Path(path).write_text(text, encoding="utf-8")
    except OSError as e:
        raise input_error("file-write", f"{path} cannot be written: {e.strerror}") from None


def describe_outputs(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Shape, type, range and number of NaN of each output."""
    import numpy as np

    rows = []
    for name, array in outputs.items():
        real = array.astype(float)
        finite = real[np.isfinite(real)]
        rows.append(
            {
                "name": name,
                "shape": list(array.shape),
                "type": str(array.dtype),
                "min": float(finite.min()) if finite.size else None,
                "max": float(finite.max()) if finite.size else None,
                "mean": float(finite.mean()) if finite.size else None,
                "not_finite": int(real.size - finite.size),
                "nan": int(np.isnan(real).sum()),
            }
        )
    return rows


def output_line(row: Mapping[str, Any]) -> str:
    shape = ",".join(str(n) for n in row["shape"])
    text = f"{row['name']}[{shape}] {row['type']}"
    if row["mean"] is not None:
        text += f"  min {row['min']:.6g}  mean {row['mean']:.6g}  max {row['max']:.6g}"
    if row["not_finite"]:
        text += f"  ({row['not_finite']} not finite, {row['nan']} NaN)"
    return text


def measured_text(measured: Mapping[str, Any]) -> str:
    """What was predicted beside what was counted, a line for each tensor and loop."""
    from cascade.analysis.tables import table

    header, rows = ["kernel", "what", "predicted", "measured", ""], []
    for kernel, both in measured["kernels"].items():
        for part in ("tensors", "loops"):
            for name, counted in both["measured"][part].items():
                expected = both["predicted"][part][name]
                for key, number in counted.items():
                    if number or expected[key]:
                        same = "equal" if number == expected[key] else "DIFFERENT"
                        what = f"{name} {key.replace('_', ' ')}"
                        rows.append([kernel, what, str(expected[key]), str(number), same])
    held = f"{measured['peak_bytes']} bytes held at most, on {measured['threads']} threads"
    return f"{table(header, rows, indent='')}\n{held}"


def check_line(result: Mapping[str, Any]) -> str:
    verdict = "agrees" if result["agrees"] else "DISAGREES"
    return (
        f"check {result['tensor']}: {verdict} with an independent evaluation "
        f"at {result['compared']} of {result['points']} points, "
        f"largest error {result['error']:.2e}"
    )


def draw(spec: Spec, path: str) -> dict[str, Any]:
    """Write the graph of a cascade to .svg, .png or .dot. Raises `InputError`."""
    from cascade.analysis.passes import count_passes
    from cascade.backends.drawing import draw as draw_graph
    from cascade.backends.drawing import to_dict

    spec = _cascade(spec)
    passes = count_passes(spec)
    draw_graph(spec, passes, path)
    return {"written": path, **to_dict(spec, passes)}


# -- the shipped examples


def _examples() -> Any:
    from importlib.resources import files

    return files("cascade") / "examples"


def list_examples() -> dict[str, str]:
    """The shipped specs with the first sentence of each."""
    found = {}
    for entry in sorted(_examples().iterdir(), key=lambda e: str(e.name)):
        if entry.name.endswith(".cascade"):
            found[entry.name[: -len(".cascade")]] = _first_sentence(
                entry.read_text(encoding="utf-8")
            )
    return found


def _first_sentence(text: str) -> str:
    words: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words += line.lstrip("# ").split()
    sentence = re.split(r"(?<!et al)[.:] ", " ".join(words))[0].rstrip(".")
    return sentence if sentence.count("(") == sentence.count(")") else sentence.split(" (")[0]


def example_text(name: str) -> str:
    """The text of a shipped spec. Raises `InputError` for an unknown name."""
    name = name.removesuffix(".cascade")
    known = list_examples()
    if name not in known:
        raise input_error("example", f"there is no example `{name}`", *did_you_mean(name, known))
    text: str = (_examples() / f"{name}.cascade").read_text(encoding="utf-8")
    return text


def copy_examples(name: str | None, folder: str) -> list[str]:
    """Copy one spec, or all with the real data, into a folder. Existing files are never
    overwritten.
    """
    names = [name.removesuffix(".cascade")] if name else list(list_examples())
    texts = {f"{n}.cascade": example_text(n).encode() for n in names}
    if name is None:
        for entry in (_examples() / "data").iterdir():
            if entry.name.endswith(".npz"):
                texts[f"data/{entry.name}"] = entry.read_bytes()
    target = Path(folder)
    for file in texts:
        check_new(target / file, "choose another folder")
    for file, content in texts.items():
        try:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (target / file).write_bytes(content)
        except OSError as e:
            raise input_error(
                "file-write", f"{target / file} cannot be written: {e.strerror}"
            ) from None
    return [str(target / file) for file in texts]
