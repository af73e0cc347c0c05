"""docs/errors.md: what each code means, with a message that shows it.

`python -m tests.errors.make_docs` writes the page; `pytest tests/errors --update-golden` does too.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "errors.md"
REPORTERS = ("fail", "input_error", "Diagnostic", "_report")  # their first argument is a code

INTRODUCTION = """\
# Errors

A message says where, which rule is broken (the code in brackets), what stands there, and what to
type. Independent mistakes of a file are reported together, each once. A *warning* stops nothing.

In Python a message is a `cascade.CascadeError`; where the spec is right and the data or a setting
is wrong, it is a `cascade.InputError`. Both print as below, and carry `diagnostics`: code, message,
place, hints. On the command line `--json` prints them as data; the exit code is 1 for a wrong spec,
2 for wrong usage of a command, 3 for wrong data or settings, 70 for a bug of cascade itself.

This page is made by `tests/errors/make_docs.py` from the expected messages in `tests/errors/`.
"""

# title, then code -> (meaning, the expected message that shows it)
SECTIONS: tuple[tuple[str, dict[str, tuple[str, str]]], ...] = (
    (
        "The text",
        {
            "syntax": ("The statement cannot go on like this.", "missing_operator"),
            "character": ("A character that the language does not have.", "ampersands"),
            "tab": ("A tab; spaces are used.", "tab"),
            "control-character": ("A character that is not text.", "texts/nul_byte"),
            "bracket": ("A bracket without its partner.", "bracket_mismatch"),
            "number": ("A number that cannot be held.", "number_infinite"),
            "nesting": ("Too many open brackets.", "texts/deep_nesting"),
            "too-deep": (
                "An expression with too many levels or parts, macros expanded.",
                "macro_too_deep",
            ),
            "line-too-long": ("A line of more than 4,000 characters.", "texts/long_line"),
            "file-too-large": ("A file of more than 2 MB.", "texts/large_file"),
            "file": ("A spec that is not there or is no text.", "texts/missing_file"),
        },
    ),
    (
        "Names",
        {
            "unknown-tensor": ("A tensor is read that nothing defines.", "unknown_tensor"),
            "unknown-name": ("A name is no rank, param, extent or scalar.", "unknown_name"),
            "unknown-function": (
                "A call of something that is no function, reduction or macro.",
                "library_without_import",
            ),
            "unknown-output": ("An output that no statement defines.", "output_undefined"),
            "declared-twice": ("One name for two things.", "input_twice"),
            "defined-twice": ("Two statements write one tensor.", "statement_twice"),
            "shadowed": (
                "A name hides a word of the language, a rank, or an extent.",
                "shadowed_scalar_extent",
            ),
            "rank-name": ("A rank has an upper-case name.", "extent_as_rank_input"),
            "type": ("There is no such type.", "bad_type"),
            "import": ("There is no such library.", "unknown_library"),
            "no-output": ("Nothing is computed.", "no_output"),
            "unused-input": ("An input is never read.", "unused_input"),
        },
    ),
    (
        "Ranks and extents",
        {
            "implicit-sum": (
                "A rank is on the right and not on the left, and the right side is not one "
                "product of reads.",
                "implicit_sum_through_function",
            ),
            "condition-rank": (
                "A condition names a rank that has no coordinate where it stands.",
                "predicate_on_reduced_rank",
            ),
            "unbound-rank": ("Nothing says how long a rank is.", "unbound_rank_on_the_left"),
            "two-extents": ("A rank indexes slots of two lengths.", "two_extents"),
            "repeated-rank": ("A rank stands twice in one tensor.", "repeated_rank_left"),
            "left-side": ("A left side that is not plain ranks.", "left_quotient"),
            "slots": ("A tensor is given too few or too many indices.", "wrong_number_of_indices"),
            "extent": (
                "An extent or param that is no number, or is defined by itself.",
                "rank_as_extent",
            ),
            "partition": ("A partition has the wrong form or use.", "partition_form"),
            "binder": ("The brackets of a reduction hold plain ranks.", "extent_as_rank"),
            "stray-rank": (
                "A rank without a coordinate, in a cascade that was made by a program.",
                "texts/stray_rank_by_hand",
            ),
        },
    ),
    (
        "Functions and values",
        {
            "arguments": (
                "A function or reduction has the wrong arguments.",
                "reduction_without_ranks",
            ),
            "selection": ("`top`, `argtop` or `order` has the wrong form.", "selection_same_rank"),
            "macro": ("A macro is defined or called wrongly.", "macro_unknown_name"),
            "bare-tensor": ("A tensor stands without its index.", "bare_tensor"),
            "bare-function": ("A function stands without its argument.", "function_in_brackets"),
            "no-index": ("A number is given an index.", "scalar_with_index"),
            "kind": (
                "A number stands where a truth value is needed, or the other way round.",
                "kind_number_where_bool",
            ),
            "index-kind": ("An index is not an integer.", "index_real_division"),
        },
    ),
    (
        "Recurrences",
        {
            "no-init": ("A recurrence has no start.", "iterative_without_init"),
            "init": ("A start has no recurrence, or does not fit it.", "init_without_recurrence"),
            "reads-ahead": ("A step needs what a later step makes.", "reads_ahead"),
            "recurrence": (
                "A recurrence does not step along one rank.",
                "coupled_along_different_ranks",
            ),
            "cycle": ("Statements need each other, and none can be first.", "cycle_of_two"),
        },
    ),
    (
        "Data and settings",
        {
            "shape": ("An array does not have the shape of its tensor.", "inputs/shape"),
            "missing-input": ("An input is not given.", "inputs/missing_input_misspelled"),
            "input-type": ("An array holds the wrong kind of values.", "inputs/float_index"),
            "setting": ("A setting cannot be.", "inputs/setting_of_derived_extent"),
            "not-a-kernel": ("A spec is called as if it were a kernel.", "texts/call_of_a_spec"),
            "not-a-spec": ("Something else stands for a spec.", "texts/spec_of_another_kind"),
            "positional": (
                "An input is given to a kernel without its name.",
                "texts/call_by_position",
            ),
            "unknown-extent": ("An extent follows from nothing given.", "inputs/unknown_extent"),
            "unknown-param": ("A param has no value.", "inputs/unknown_param"),
            "requirement": ("A `require` of the spec does not hold.", "inputs/requirement"),
        },
    ),
    (
        "Files and commands",
        {
            "file-missing": ("A file of arrays is not there.", "texts/missing_data"),
            "file-format": ("A file holds no arrays, or not as asked.", "texts/no_format"),
            "file-write": ("A result cannot be written.", "texts/output_folder"),
            "missing-package": ("An optional package is needed.", "texts/package_missing"),
            "example": ("There is no such example.", "texts/example_unknown"),
            "target": ("There is no such machine, or its file is wrong.", "texts/target_unknown"),
            "workload": (
                "There is no such workload, or its file is wrong.",
                "texts/workload_unknown",
            ),
            "sweep": ("The values of a sweep cannot be read.", "texts/sweep_backwards"),
            "plot": ("A picture needs rows that are not there.", "texts/plot_without_a_sweep"),
            "no-state": ("A derived form has no single state.", "texts/no_single_state"),
            "no-chunks": ("Nothing in the cascade can be chunked.", "texts/nothing_to_chunk"),
            "gradient": ("A gradient is asked for by something unknown.", "texts/gradient_unknown"),
            "trace": (
                "An operation of a PyTorch function has no form in the language.",
                "texts/traced_without_a_form",
            ),
            "host": ("A spec or a model asks for what the other has not.", "texts/not_a_model"),
            "no-derivative": ("Something has no derivative.", "texts/gradient_of_integers"),
        },
    ),
    (
        "Kernels",
        {
            "no-schedule": (
                "A step has no place in a kernel; the reference evaluates it.",
                "texts/no_schedule",
            ),
            "width": (
                "The extent of an axis that tiles hold whole is not known.",
                "texts/width_unknown",
            ),
            "tile": (
                "A tile of a rank that is not there, or of no coordinates.",
                "texts/tile_rank",
            ),
            "split": ("A number of splits that is none.", "texts/split_none"),
            "no-split": (
                "No loop can be cut in splits that are merged.",
                "texts/split_in_order",
            ),
            "footprint": (
                "What is set needs more memory than the target has.",
                "texts/footprint",
            ),
            "specialise": (
                "Loads cannot be left to warps of their own.",
                "texts/warps_that_cannot_load_alone",
            ),
            "backend": ("There is no such backend.", "texts/backend_unknown"),
            "device": (
                "Inputs are on a device on which the backend does not run.",
                "texts/kernels_without_a_gpu",
            ),
            "interpreter": (
                "Kernels are to be compiled in a process that interprets them.",
                "texts/compiling_while_interpreting",
            ),
            "peer": ("A benchmark against something that is not known.", "texts/peer_unknown"),
        },
    ),
    (
        "Spatial arrays",
        {
            "array-stream": (
                "The cascade sums over no rank of an input: nothing streams past an array.",
                "texts/array_stream",
            ),
            "array-operation": (
                "No array of the target has an operation of the cascade.",
                "texts/array_operation",
            ),
            "array-buffer": (
                "The buffer of the target does not hold one tile.",
                "texts/array_buffer",
            ),
            "array-epoch": (
                "A tile cannot be interleaved with its neighbours.",
                "texts/array_epoch",
            ),
            "array-form": (
                "A FLAT-like array runs two contractions around vector statements, nothing else.",
                "texts/array_form",
            ),
        },
    ),
    (
        "Cascades written in Python",
        {
            "truth-value": (
                "An expression of a cascade is used as true or false.",
                "texts/python_truth",
            ),
            "value": ("A Python object that is no number.", "texts/python_value"),
            "name": ("A text that is no name of the language.", "texts/python_name"),
        },
    ),
    (
        "Warnings",
        {
            "late-mask": ("A mask comes after the reduction it is meant for.", "late_mask"),
            "unused": ("A statement, param, rank or partition has no effect.", "unused_tensor"),
            "assumed-size": (
                "Kernels were written for a size that nobody gave.",
                "texts/sizes_assumed",
            ),
            "unused-tile": (
                "A tile is set for a rank that a kernel takes whole, or one coordinate at a time.",
                "texts/tile_unused",
            ),
            "never": ("A condition that is false everywhere.", "never_true"),
        },
    ),
)


def codes_in_source() -> set[str]:
    """Every code that a module of the project can report."""
    files = [
        p for folder in ("cascade", "frontends", "backends") for p in (ROOT / folder).rglob("*.py")
    ]
    return {code for path in set(map(Path.resolve, files)) for code in _codes(path)}


def _codes(path: Path) -> set[str]:
    calls = (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call))
    firsts = (c.args[0] for c in calls if c.args and _called(c) in REPORTERS)
    return {a.value for a in firsts if isinstance(a, ast.Constant) and isinstance(a.value, str)}


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(_, name) | ast.Name(name):
            return name
        case _:
            return ""


def examples() -> dict[str, list[Path]]:
    """The expected messages of each code."""
    found: dict[str, list[Path]] = {}
    for path in sorted(HERE.rglob("*.txt")):
        for code in re.findall(r"(?:error|warning)\[([a-z-]+)\]", path.read_text("utf-8")):
            found.setdefault(code, []).append(path)
    return found


@cache
def meanings() -> dict[str, tuple[str, str]]:
    return {code: row for _, rows in SECTIONS for code, row in rows.items()}


def page() -> str:
    """The text of docs/errors.md."""
    missing = codes_in_source() - set(meanings())
    assert not missing, f"SECTIONS has no line for {', '.join(sorted(missing))}"
    lines = [INTRODUCTION]
    for title, rows in SECTIONS:
        lines.append(f"## {title}\n")
        for code, (meaning, example) in rows.items():
            message = (HERE / f"{example}.txt").read_text("utf-8").rstrip()
            assert f"[{code}]" in message, f"{example}.txt does not show {code}"
            lines.append(f"### `{code}`\n\n{meaning}\n\n```\n{message}\n```\n")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
