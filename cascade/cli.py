"""The command line: each command is a call of `cascade.api`, and prints what it returns.

Exit codes: 0 fine, 1 the spec is wrong, 2 wrong usage, 3 an input file or setting is wrong, 70 our
bug.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import click

from cascade import __version__
from cascade.diagnostics import CascadeError, InputError

SLOW = 2.0  # seconds after which a progress bar appears

Number = int | float | bool


def main() -> None:
    """Run the command line and turn every failure into its exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as e:
        if isinstance(e, _Bug):
            e.show()
        else:
            _refuse("usage", e.format_message(), e.show)
        sys.exit(e.exit_code)
    except CascadeError as e:
        _show_error(e)
        sys.exit(3 if isinstance(e, InputError) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MemoryError:
        message = "not enough memory for these extents"
        _refuse("memory", message, lambda: click.echo(f"error: {message}", err=True))
        sys.exit(3)
    except Exception as e:
        if os.environ.get("CASCADE_DEBUG"):
            raise
        click.echo(f"internal error: {type(e).__name__}: {e}", err=True)
        click.echo("This is a bug of cascade: please report it with the spec.", err=True)
        click.echo("CASCADE_DEBUG=1 shows where.", err=True)
        sys.exit(70)


def _refuse(code: str, message: str, show: Callable[[], None]) -> None:
    """An error that no diagnostic describes: as JSON where that was asked for."""
    if "--json" in sys.argv:
        error = {"severity": "error", "code": code, "message": message, "hints": []}
        click.echo(json.dumps({"errors": [error]}, indent=2))
    else:
        show()


def _show_error(e: CascadeError) -> None:
    if "--json" in sys.argv:
        click.echo(json.dumps({"errors": [d.to_dict() for d in e.diagnostics]}, indent=2))
    else:
        click.echo(str(e), err=True)


class _Bug(click.ClickException):
    """Two results that must be equal are not: the spec and the data are fine."""

    exit_code = 70


def _settings(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> dict[str, Number]:
    """`--set M=64,scale=0.5 --set P=1` as a dictionary."""
    settings: dict[str, Number] = {}
    for item in (item for text in value for item in text.split(",") if item):
        name, separator, digits = item.partition("=")
        if not separator or not name.strip().isidentifier():
            raise click.BadParameter(f"{item!r} is not of the form NAME=VALUE, as in M=1024")
        number = _number(digits.strip())
        if settings.setdefault(name.strip(), number) != number:
            raise click.BadParameter(f"{name} is set twice")
    return settings


def _number(digits: str) -> Number:
    try:
        return int(digits)
    except ValueError:
        pass
    try:
        return float(digits)
    except ValueError:
        raise click.BadParameter(f"{digits!r} is not a number") from None


spec_argument = click.argument("spec", type=click.Path())
set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    callback=_settings,
    metavar="NAME=VALUE,…",
    help="Extents and params of the spec: --set M=65536,scale=0.5",
)
inputs_option = click.option(
    "--inputs",
    "-i",
    multiple=True,
    metavar="FILE",
    help="Arrays: .npz, .safetensors, or NAME=file.npy (repeatable)",
)


def _tiles(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    """`--tile m=64,p=128` as a dictionary."""
    found = _settings(ctx, param, value)
    for name, size in found.items():
        if not isinstance(size, int):
            raise click.BadParameter(f"a tile of {name} is a whole number, not {size}")
    return {name: int(size) for name, size in found.items()}


tile_option = click.option(
    "--tile",
    "tiles",
    multiple=True,
    callback=_tiles,
    metavar="RANK=SIZE,…",
    help="Coordinates of a tile, by rank: --tile m=64,p=128",
)


def _split(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    if value != "auto" and not (value.isdecimal() and int(value) > 0):
        raise click.BadParameter(f"splits are 1 or more, or auto, not {value}")
    return value if value == "auto" else int(value)


split_option = click.option(
    "--split",
    callback=_split,
    default="1",
    metavar="N|auto",
    help="Cut the rank of a loop in N splits that run side by side and are merged; auto: as many "
    "as fill the device",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cascade")
def cli() -> None:
    """Attention as cascades of Einsums: analysed, executed, compiled."""


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=True))


def _warn(cascade: Any) -> None:
    for warning in cascade.warnings:
        click.echo(warning.render() + "\n", err=True)


def _warn_of_tiles(
    spec: Any, settings: dict[str, Number], tiles: dict[str, int], as_written: bool = False
) -> None:
    """Say on standard error which tiles change nothing."""
    from cascade import api

    if tiles:
        for warning in api.unused_tiles(spec, api.known_extents(spec, settings), tiles, as_written):
            click.echo(warning.render() + "\n", err=True)


@cli.command()
@click.argument("specs", type=click.Path(), nargs=-1, required=True)
@json_option
def check(specs: tuple[str, ...], as_json: bool) -> None:
    """Parse and check specs; print what each declares."""
    from cascade import api

    found, failed = [], []
    for path in specs:
        try:
            c = api.load(path)
        except CascadeError as e:
            if len(specs) == 1:
                raise
            failed.append(e)
            continue
        found.append(api.summary(c))
        if not as_json:
            _warn(c)
            click.echo(f"{path}: {api.describe(c)}")
    if as_json and not failed:
        _print_json(found if len(specs) > 1 else found[0])
    if failed:
        raise CascadeError(*(d for e in failed for d in e.diagnostics))


@cli.command()
@click.argument("specs", type=click.Path(), nargs=-1, required=True)
@click.option("--write", "-w", is_flag=True, help="Rewrite the files in place")
@click.option(
    "--check", "only_check", is_flag=True, help="Change nothing; exit 1 if a file is not canonical"
)
@json_option
def fmt(specs: tuple[str, ...], write: bool, only_check: bool, as_json: bool) -> None:
    """Print specs in canonical form."""
    from cascade import api

    changed: list[str] = []
    texts: dict[str, str] = {}
    for path in specs:
        before, after = api.format_file(path)
        texts[path] = after
        if before != after:
            changed.append(path)
            if write and path != "-":
                api.replace_text(path, after)
    if as_json:
        _print_json({"changed": changed, "text": texts})
    elif only_check or write:
        for path in changed:
            click.echo(f"{'rewritten' if write else 'not canonical'}: {path}")
    else:
        click.echo("\n".join(texts.values()), nl=False)
    if only_check and changed:
        sys.exit(1)


@cli.command()
@spec_argument
@set_option
@inputs_option
@click.option(
    "--target",
    metavar="NAME|FILE",
    help="A machine to price it on: b200, h200, h100, a100, fusemax, or a .toml",
)
@json_option
def analyse(
    spec: str,
    settings: dict[str, Number],
    inputs: tuple[str, ...],
    target: str | None,
    as_json: bool,
) -> None:
    """Passes with their proof, footprints, work, traffic, and what stands in the way of fewer."""
    from cascade import api

    with _Progress("analysing"):
        c = api.load(spec)
        report = api.analyse(c, settings, target, api.read_arrays(inputs))
    if as_json:
        _print_json(report.to_dict())
        return
    _warn(c)
    click.echo(str(report))


@cli.command()
@spec_argument
@click.option("--steps", type=click.IntRange(0), metavar="N", help="Stop after N steps")
@click.option("--emit", metavar="FILE", help="Write the derived spec to a .cascade file")
@click.option("--explain", is_flag=True, help="Only what stands in the way of fewer passes")
@click.option("--chunk", "chunked", is_flag=True, help="Chunk prefix sums and recurrences instead")
@click.option("--check", "recheck", is_flag=True, help="Prove and compare every step again")
@json_option
def derive(
    spec: str,
    steps: int | None,
    emit: str | None,
    explain: bool,
    chunked: bool,
    recheck: bool,
    as_json: bool,
) -> None:
    """The form with the fewest passes, step by step, with what allows each step."""
    from cascade import api

    if chunked and (steps is not None or explain):
        raise click.UsageError("--chunk stands alone, with --check, --emit or --json")
    with _Progress("deriving"):
        c = api.load(spec)
        found: Any = api.chunk(c) if chunked else api.derive(c, steps)
        checked = api.check_derivation(c, found) if recheck else None
    if emit is not None:
        api.emit(emit, found.result, spec)
    if as_json:
        _print_json({**found.to_dict(), **({"check": checked} if checked else {})})
    else:
        _warn(c)
        click.echo(found.explanation() if explain else str(found))
        if checked is not None:
            click.echo(
                f"\n{checked['text']}\n{checked['comparisons']} comparisons with the source, "
                f"{checked['disagreements']} disagree"
            )
        if emit is not None:
            click.echo(f"written to {emit}")
    if checked is not None and not checked["ok"]:
        raise _Bug("the derivation does not check: this is a bug of cascade, please report it")


@cli.command()
@spec_argument
@click.option("--wrt", metavar="A,B", help="Inputs or params; all real inputs by default")
@click.option("--recompute", is_flag=True, help="Save nothing in the forward cascade")
@click.option("--emit", metavar="FILE", help="Write the gradients to a .cascade file")
@click.option("--emit-forward", metavar="FILE", help="Write the forward cascade that saves")
@click.option("--check", "recheck", is_flag=True, help="Compare with central differences")
@json_option
def gradient(
    spec: str,
    wrt: str | None,
    recompute: bool,
    emit: str | None,
    emit_forward: str | None,
    recheck: bool,
    as_json: bool,
) -> None:
    """The gradients of a spec as a spec, with the steps that simplify it."""
    from cascade import api

    names = None if wrt is None else [n.strip() for n in wrt.split(",") if n.strip()]
    with _Progress("differentiating"):
        c = api.load(spec)
        found = api.gradient(c, names, save=not recompute)
        checked = api.check_gradient(c, found) if recheck else None
    for path, made in ((emit, found.backward), (emit_forward, found.forward)):
        if path is not None:
            api.emit(path, made, spec)
    if as_json:
        _print_json({**found.to_dict(), **({"check": checked} if checked else {})})
    else:
        _warn(c)
        click.echo(str(found))
        if checked is not None:
            click.echo(
                f"\n{checked['smooth']} of {checked['trials']} directions have a derivative; "
                f"{checked['disagree']} disagree, largest difference {checked['worst']:.1e}"
            )
        for path in (emit, emit_forward):
            if path is not None:
                click.echo(f"written to {path}")
    if checked is not None and not checked["ok"]:
        raise _Bug("the gradient does not check: this is a bug of cascade, please report it")


@cli.command()
@spec_argument
@set_option
@inputs_option
@click.option("--output", "-o", metavar="FILE", help="Where outputs go: .npz, .safetensors, .npy")
@click.option(
    "--random", "seed", type=int, metavar="SEED", help="Draw missing inputs at random (real ones)"
)
@click.option(
    "--check", "recheck", is_flag=True, help="Compute sampled points again, independently"
)
@click.option(
    "--backend",
    type=click.Choice(["reference", "tiled"]),
    default="reference",
    show_default=True,
    help="reference: whole tensors, float64; tiled: the kernels of `schedule` in NumPy, float32",
)
@tile_option
@split_option
@click.option("--measure", is_flag=True, help="Tiles, bytes and visits, predicted and counted")
@json_option
def run(
    spec: str,
    settings: dict[str, Number],
    inputs: tuple[str, ...],
    output: str | None,
    seed: int | None,
    recheck: bool,
    backend: str,
    tiles: dict[str, int],
    split: int | str,
    measure: bool,
    as_json: bool,
) -> None:
    """Evaluate a spec on arrays."""
    from cascade import api

    if backend == "reference" and (measure or tiles or split != 1):
        raise click.UsageError("--tile, --split and --measure need --backend tiled")
    c = api.load(spec)
    if output:
        api.check_output(output, len(c.outputs))
    arrays = api.read_arrays(inputs)
    if seed is not None:
        arrays = api.random_inputs(c, arrays, settings, seed)
    measured = None
    with _Progress(f"running {c.name}") as progress:
        if backend == "tiled":
            outputs, measured = api.run_program(
                c, arrays, settings, tiles, progress, measure, split
            )
        else:
            outputs = api.run(c, arrays, settings, progress)
    _warn_of_tiles(c, settings, tiles)
    rows = api.describe_outputs(outputs)
    checks = []
    if recheck:
        with _Progress("checking"):
            checks = api.recheck(c, arrays, settings, outputs, single=backend == "tiled")
    if output:
        api.write_arrays(output, outputs)
    if as_json:
        shown = {"outputs": rows, "checks": checks, "written": output}
        _print_json(shown | ({"measured": measured} if measured is not None else {}))
    else:
        _warn(c)
        for row in rows:
            click.echo(api.output_line(row))
        if measured is not None:
            click.echo(api.measured_text(measured))
        for result in checks:
            click.echo(api.check_line(result))
        if output:
            click.echo(f"written to {output}")
    if any(not r["agrees"] for r in checks):
        raise _Bug("the two evaluations disagree: this is a bug of cascade, please report it")


@cli.command()
@spec_argument
@set_option
@tile_option
@split_option
@click.option("--as-written", is_flag=True, help="The spec itself, not its derived form")
@click.option("--target", metavar="NAME|FILE", help="An array such as fusemax: its epochs instead")
@click.option("--workload", metavar="NAME|FILE", help="With --target: extents of bert, t5, …")
@click.option("--output", "-o", metavar="FILE", help="With --target: a Gantt picture, .svg or .png")
@json_option
def schedule(
    spec: str,
    settings: dict[str, Number],
    tiles: dict[str, int],
    split: int | str,
    as_written: bool,
    target: str | None,
    workload: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """The kernels of a spec: grids, loops, tiles, what is carried and what is stored. On an array:
    which statement runs where, and how tiles are interleaved.
    """
    from cascade import api

    if target is not None:
        if tiles:
            raise click.UsageError("--tile has no meaning on an array: it sets the tile itself")
        form = "written" if as_written else None
        _spatial_schedule(spec, target, settings, workload, form, output, as_json)
        return
    if workload is not None or output is not None:
        raise click.UsageError("--workload and --output need --target")
    c = api.load(spec)
    with _Progress("scheduling"):
        made = api.schedule(c, settings, tiles, as_written, split)
    _warn_of_tiles(c, settings, tiles, as_written)
    if as_json:
        _print_json(made.to_dict())
    else:
        click.echo(f"{made.source.name}: {made.form.how}\n\n{made}".rstrip())


@cli.command()
@spec_argument
@set_option
@tile_option
@split_option
@click.option("--output", "-o", required=True, metavar="FILE.py", help="Where the kernels go")
@click.option(
    "--target", help="sm_80, sm_90, …: compile ahead of time, choose tiles, report what is needed"
)
@click.option(
    "--stages",
    type=click.IntRange(1, 8),
    help="Stages of the pipeline of a loop; chosen where it is not set",
)
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "f16", "f32"]),
    default="bf16",
    show_default=True,
    help="The type of real inputs that the spec leaves open",
)
@click.option(
    "--loads",
    type=click.Choice(["pointers", "descriptors", "specialised"]),
    default="pointers",
    show_default=True,
    help="Descriptors (TMA, from sm_90 on) save registers and ask for aligned tensors; "
    "specialised: in warps that do nothing else",
)
@click.option("--as-written", is_flag=True, help="The spec itself, not its derived form")
@json_option
def compile(
    spec: str,
    settings: dict[str, Number],
    tiles: dict[str, int],
    split: int | str,
    output: str,
    target: str | None,
    stages: int | None,
    dtype: str,
    loads: str,
    as_written: bool,
    as_json: bool,
) -> None:
    """Write Triton kernels, and what they need beside them as JSON."""
    from cascade import api

    c = api.load(spec)
    with _Progress("compiling") as progress:
        found = api.write_kernel(
            c, output, settings, target, dtype, tiles, as_written, progress,
            loads, split, stages,
        )  # fmt: skip
    _print_json(found) if as_json else click.echo(api.kernel_text(found))


@cli.command()
@spec_argument
@click.option("--output", "-o", required=True, metavar="FILE", help=".svg, .png or .dot")
@json_option
def graph(spec: str, output: str, as_json: bool) -> None:
    """Draw a cascade as a graph, its passes in colours."""
    from cascade import api

    with _Progress("drawing"):
        drawn = api.draw(api.load(spec), output)
    if as_json:
        _print_json(drawn)
    else:
        click.echo(f"written to {output}")


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--copy-to", "folder", type=click.Path(file_okay=False), help="Copy it (or all) into a folder"
)
@json_option
def examples(name: str | None, folder: str | None, as_json: bool) -> None:
    """List the shipped specs, print one, or copy them."""
    from cascade import api

    if folder is not None:
        copied = api.copy_examples(name, folder)
        _print_json(copied) if as_json else click.echo("\n".join(f"copied to {p}" for p in copied))
    elif name is not None:
        text = api.example_text(name)
        _print_json({"name": name, "text": text}) if as_json else click.echo(text, nl=False)
    else:
        listed = api.list_examples()
        if as_json:
            _print_json(listed)
            return
        width = max(len(n) for n in listed)
        for example, summary in listed.items():
            click.echo(f"{example.ljust(width)}  {summary}")
        click.echo("\n`cascade examples NAME` prints one; `--copy-to FOLDER` copies it.")


@cli.command()
@click.argument("name", required=False)
@click.option("--passes", type=click.IntRange(1), metavar="N", help="Those derived to N passes")
@click.option("--linear", is_flag=True, help="Those with a state")
@click.option("--markdown", "as_markdown", is_flag=True, help="The page docs/zoo.md")
@click.option("--roofline", "as_roofline", is_flag=True, help="Time floors on GPUs and their bound")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME|FILE",
    help="With --roofline: h100, …, or a .toml (repeatable) [default: every GPU]",
)
@click.option("--plot", metavar="FILE", help="With --roofline: draw it, as .svg or .png")
@set_option
@json_option
def zoo(
    name: str | None,
    passes: int | None,
    linear: bool,
    as_markdown: bool,
    as_roofline: bool,
    targets: tuple[str, ...],
    plot: str | None,
    settings: dict[str, Number],
    as_json: bool,
) -> None:
    """Published mechanisms as specs: list them, price them for extents, or print one."""
    from cascade import zoo

    if as_roofline:
        if name is not None and (passes is not None or linear):
            raise click.UsageError("--passes and --linear choose among all, and NAME is one")
        chosen = None if name is None else [name]
        if passes is not None or linear:
            with _Progress("analysing"):
                chosen = [e.name for e, _ in zoo.chosen(passes, linear)]
        _rooflines(chosen, targets, settings, plot, as_json)
        return
    if targets or plot is not None:
        raise click.UsageError("--target and --plot need --roofline")
    if name is not None:
        found = zoo.entry(name)
        _print_json({"name": name, "text": found.text}) if as_json else click.echo(
            found.text, nl=False
        )
        return
    with _Progress("analysing"):
        if as_markdown:
            click.echo(zoo.markdown(), nl=False)
            return
        every = zoo.chosen(passes, linear, settings)
    if as_json:
        _print_json([zoo.as_dict(e, c) for e, c in every])
    elif every:
        click.echo(zoo.listed(every, bool(settings)))
    else:
        click.echo("none")


def _rooflines(
    names: list[str] | None,
    targets: tuple[str, ...],
    settings: dict[str, Number],
    plot: str | None,
    as_json: bool,
) -> None:
    from cascade import rooflines
    from cascade.analysis.targets import gpu_targets

    with _Progress("pricing"):
        found = rooflines.compute(targets or gpu_targets(), settings, names)
    if plot is not None:
        rooflines.draw(found, plot)
    if as_json:
        _print_json([p.to_dict() for p in found])
        return
    click.echo(rooflines.text(found))
    if plot is not None:
        click.echo(f"written to {plot}")


@cli.command()
@click.option("--from", "name", required=True, metavar="NAME", help="A mechanism of the zoo")
@click.option("--output", "-o", metavar="FILE", help="NAME.cascade by default")
@json_option
def new(name: str, output: str | None, as_json: bool) -> None:
    """Copy a mechanism of the zoo to start from. No file is overwritten."""
    from cascade import api, zoo

    path = output or f"{name}.cascade"
    text = zoo.entry(name).text
    api.check_new(path, "choose another name: `-o mine.cascade`")
    api.new_text(path, text)
    _print_json({"written": path}) if as_json else click.echo(f"written to {path}")


@cli.command()
@click.argument("spec", type=click.Path(), required=False)
@set_option
@click.option(
    "--against",
    default="eager,sdpa",
    show_default=True,
    help="Peers: eager, sdpa (or one backend of it: sdpa-flash, -cudnn, -efficient, -math), "
    "flex (FlexAttention, compiled), fla (flash-linear-attention)",
)
@click.option("--dtype", type=click.Choice(["f32", "bf16", "f16"]), default="f32")
@click.option("--output", "-o", metavar="FILE.json", help="Write the results as JSON")
@click.option("--plot", metavar="FILE.svg", help="Draw the results, as .svg or .png")
@click.option("--target", help="Show the roofline of a target: h100, h200, …, or a file")
@click.option("--backward", is_flag=True, help="Measure the gradients instead")
@click.option(
    "--tune/--no-tune",
    default=False,
    help="Look for the fastest tiles at the first call on a GPU, or take what spills nothing",
)
@click.option(
    "--self", "itself", is_flag=True, help="Measure cascade itself: start-up, parsing, analysis"
)
@click.option(
    "--repeat", default=5, show_default=True, help="Runs of each measurement; the median is shown"
)
@json_option
def bench(
    spec: str | None,
    settings: dict[str, Number],
    against: str,
    dtype: str,
    output: str | None,
    plot: str | None,
    target: str | None,
    backward: bool,
    tune: bool,
    itself: bool,
    repeat: int,
    as_json: bool,
) -> None:
    """Measure a spec beside its peers; or, with `--self`, how fast cascade itself is."""
    if itself == (spec is not None):
        raise click.UsageError("say what to measure: `cascade bench SPEC`, or `--self`")
    if spec is not None:
        found = _compare(spec, settings, against, dtype, target, repeat, backward, tune)
        _write_comparison(found, output, plot, as_json)
        return
    from cascade import benchmark

    with _Progress("measuring") as progress:
        rows = benchmark.measure(repeat, progress)
    if as_json:
        _print_json([row.to_dict() for row in rows])
    else:
        click.echo(benchmark.report(rows))


def _compare(
    spec: str,
    settings: dict[str, Number],
    against: str,
    dtype: str,
    target: str | None,
    rounds: int,
    backward: bool,
    tune: bool,
) -> dict[str, Any]:
    from cascade import api, comparison

    peers = [p.strip() for p in against.split(",") if p.strip()]
    with _Progress("measuring") as progress:
        return comparison.compare(
            api.load(spec), peers, settings, rounds, dtype, progress, target, backward, tune
        )


def _write_comparison(
    found: dict[str, Any], output: str | None, plot: str | None, as_json: bool
) -> None:
    from cascade import api, comparison

    if output is not None:
        api.new_text(output, json.dumps(found, indent=2) + "\n")
    if plot is not None:
        api.draw_comparison(found, plot)
    _print_json(found) if as_json else click.echo(comparison.text(found))


def _spatial_schedule(
    spec: str,
    target: str,
    settings: dict[str, Number],
    workload: str | None,
    form: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    from cascade import modelling

    with _Progress("scheduling"):
        found = modelling.schedule(spec, target, settings, workload, form)
    if output is not None:
        modelling.draw_schedule(found, output)
    if as_json:
        _print_json(found.to_dict())
        return
    click.echo(str(found))
    if output is not None:
        click.echo(f"written to {output}")


@cli.command()
@click.argument("specs", type=click.Path(), nargs=-1, required=True)
@click.option(
    "--grow",
    "growth",
    required=True,
    metavar="M=FIRST:LAST",
    help="The extent that a token adds to: from the prompt to the end of the output",
)
@set_option
@click.option("--parameters", default=0.0, metavar="N", help="Of the model, as in 8.2e9")
@click.option("--layers", type=click.IntRange(1), default=1, help="With this attention")
@click.option("--trials", type=click.IntRange(1), default=1, help="Tokens made in a step")
@click.option("--target", default="b200", show_default=True, metavar="NAME|FILE")
@click.option("--plot", metavar="FILE", help="Draw eFLOPs over tokens, as .svg or .png")
@json_option
def decode(
    specs: tuple[str, ...],
    growth: str,
    settings: dict[str, Number],
    parameters: float,
    layers: int,
    trials: int,
    target: str,
    plot: str | None,
    as_json: bool,
) -> None:
    """Effective FLOPs of generating with specs that are steps of decoding, as the output grows."""
    from cascade import decoding
    from cascade.analysis.effective import Decoding

    run = Decoding(*decoding.read_growth(growth), parameters, layers, trials)
    with _Progress("summing up"):
        results = decoding.compute(specs, target, settings, run)
    if plot is not None:
        decoding.draw(results, plot)
    if as_json:
        _print_json([r.to_dict() for r in results])
        return
    click.echo(decoding.text(results))
    if plot is not None:
        click.echo(f"written to {plot}")


@cli.command("model")
@click.argument("specs", type=click.Path(), nargs=-1)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME|FILE",
    help="An array: fusemax, flat, unfused, …, or a .toml (repeatable) [default: fusemax]",
)
@set_option
@click.option("--workload", metavar="NAME|FILE", help="Extents of bert, trxl, t5, xlm, or a .toml")
@click.option("--sweep", metavar="M=FIRST:LAST", help="Doubling; `:4` for fours; or M=1000,3000")
@click.option("--baseline", metavar="NAME|FILE", help="A target to compare with")
@click.option(
    "--form",
    type=click.Choice(["derived", "written"]),
    help="The fewest passes, or as written [default: what the target runs]",
)
@click.option("--statements", is_flag=True, help="Each statement: its array, cycles, utilisation")
@click.option("--paper", type=click.Choice(["fusemax"]), help="The paper's results beside ours")
@click.option("--csv", "csv_file", metavar="FILE", help="Write the rows as CSV")
@click.option("--output", "-o", metavar="FILE", help="Draw the rows: .svg or .png")
@click.option(
    "--plot",
    type=click.Choice(["utilisation", "latency", "speedup", "energy", "pareto"]),
    help="What to draw [default: speedup of a sweep with a baseline, else utilisation]",
)
@json_option
def model_command(
    specs: tuple[str, ...],
    targets: tuple[str, ...],
    settings: dict[str, Number],
    workload: str | None,
    sweep: str | None,
    baseline: str | None,
    form: str | None,
    statements: bool,
    paper: str | None,
    csv_file: str | None,
    output: str | None,
    plot: str | None,
    as_json: bool,
) -> None:
    """Latency, utilisation, traffic and energy on arrays such as FuseMax and FLAT."""
    from cascade import api, modelling

    if paper is not None:
        if specs or targets or sweep or output:
            raise click.UsageError("--paper stands alone, with --json or --csv")
        _paper(csv_file, as_json)
        return
    if not specs:
        raise click.UsageError("give a spec, or --paper fusemax")
    chosen = modelling.read_sweep(sweep) if sweep else modelling.Sweep()
    request = modelling.Request(
        specs, targets or ("fusemax",), settings, chosen, workload, form, baseline
    )
    with _Progress("modelling") as progress:
        rows = modelling.compute(request, progress)
    if csv_file is not None:
        api.new_text(csv_file, modelling.as_csv(rows))
    if output is not None:
        kind = plot or ("speedup" if baseline and sweep else "utilisation")
        modelling.draw(rows, chosen.names, kind, output)
    if as_json:
        _print_json(rows)
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(modelling.table(rows, chosen.names))
    for row in rows if statements else ():
        console.print(modelling.statement_table(row))
    for file in filter(None, (csv_file, output)):
        click.echo(f"written to {file}")


def _paper(csv_file: str | None, as_json: bool) -> None:
    """The results of FuseMax: rows as JSON; beside the published ones as text and CSV."""
    from cascade import api, modelling, paper

    with _Progress("modelling the paper") as progress:
        runs = paper.results(progress)
        rows = paper.rows_of(runs)
        compared = paper.figures(rows, runs)
    if csv_file is not None:
        api.new_text(csv_file, modelling.as_csv(c.to_dict() for c in compared))
    if as_json:
        _print_json(rows)
        return
    click.echo(paper.text(compared, rows))


class _Progress:
    """A bar on a terminal for work of more than two seconds.

    Gives a callable `(done, total)`; work that never calls it has a bar without an end.
    """

    def __init__(self, title: str):
        self.title = title
        self.lock = threading.Lock()
        self.timer = threading.Timer(SLOW, self._show)
        self.timer.daemon = True
        self.reached: tuple[int, int] | None = None
        self.over = False
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Callable[[int, int], None]:
        if sys.stderr.isatty():
            self.timer.start()
        return self._update

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        with self.lock:
            if self.over:
                return
            self.bar = Progress(console=Console(stderr=True), transient=True)
            self.bar.start()
            done, total = self.reached or (0, None)
            self.task = self.bar.add_task(self.title, total=total, completed=done)

    def _update(self, done: int, total: int) -> None:
        self.reached = done, total
        with self.lock:
            if self.bar is not None:
                self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()
        with self.lock:
            self.over = True
            if self.bar is not None:
                self.bar.stop()


if __name__ == "__main__":
    main()
