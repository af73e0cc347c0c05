"""Kernels compiled ahead of time for a GPU: nothing spills, matrix units are used, all fits.

Each test compiles in a process of its own, for the tests interpret triton.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import cascade
from tests.examples.test_examples import FOLDER, NAMES, spec

pytest.importorskip("triton")

from cascade.backends.triton.tiles import chosen, first, programs
from cascade.diagnostics import InputError

SOFTMAX = ("attention", "causal", "alibi", "soft_cap", "grouped_query", "sliding_window")
WIDTHS = {"s": 16, "r": 64, "n": 1024}


def compile_for(tmp_path, name: str, width: int, *more: str, path: Path | None = None) -> Any:
    known = {"E": width, "F": width} | {k.upper(): v for k, v in WIDTHS.items()}
    given = [f"{k}={v}" for k, v in known.items() if k.lower() in spec(name).rank]
    written = path or FOLDER / f"{name}.cascade"
    command = [sys.executable, "-m", "cascade", "compile", str(written)]
    command += ["-o", str(tmp_path / "kernels.py"), "--target", "sm_90", "--json", *more]
    command += ["--set", ",".join(given)] if given else []
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "triton")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "kernels.json").read_text()) == found
    return found


def refused(
    tmp_path,
    *more: str,
    path: str = str(FOLDER / "attention.cascade"),
    target: Sequence[str] = ("--target", "sm_90"),
) -> str:
    command = [sys.executable, "-m", "cascade", "compile", path]
    command += ["-o", str(tmp_path / "kernels.py"), *target, *more]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode != 0, done.stdout + done.stderr
    assert not (tmp_path / "kernels.py").exists()
    return done.stderr


def test_what_is_set_and_does_not_fit_is_refused(tmp_path):
    text = refused(tmp_path, "--set", "E=128,F=128", "--tile", "p=128,m=128", "--stages", "6")
    assert "error[footprint]" in text and "bytes of shared memory, and sm_90 has 232448" in text
    assert "--stages" in text


@pytest.mark.parametrize("tile", ["m=100000", "p=8192,m=64"])
@pytest.mark.parametrize("target", ["sm_90", None])
def test_a_tile_that_nothing_holds_is_refused(tile, target):
    tiles = {n: int(v) for n, v in (t.split("=") for t in tile.split(","))}
    with pytest.raises(InputError, match="elements in a tile, and no GPU holds more than 131072"):
        if target is None:
            first(spec("attention"), {"e": 64, "f": 64}, tiles)
        else:
            chosen(spec("attention"), {"e": 64, "f": 64}, target, tiles=tiles)


def test_stages_that_are_set(tmp_path):
    found = compile_for(tmp_path, "attention", 64, "--stages", "2")
    check(found)
    assert found["num_stages"] == 2


def test_tiles_that_no_register_holds_are_not_compiled():
    wide = {"E": 512, "F": 512}
    found = list(programs(spec("attention"), {n.lower(): v for n, v in wide.items()}))
    assert [c for c, _, _ in found] and all(c.rows < 128 for c, _, _ in found)
    narrow = next(programs(spec("attention"), {"e": 64, "f": 64}))
    assert narrow[0].rows == 128


def check(found: Any) -> None:
    assert found["kernels"]
    for kernel in found["kernels"]:
        assert kernel["spill_bytes"] == 0, kernel
        assert kernel["fits"], kernel


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", ["attention", "causal"])
def test_attention(tmp_path, name, width):
    found = compile_for(tmp_path, name, width)
    check(found)
    assert found["tiles"]["rows"] == 128
    for kernel in found["kernels"]:  # tiles of 64 rows or more: a group of warps multiplies
        assert kernel["wgmma_instructions"] == kernel["tensor_core_instructions"] > 0


@pytest.mark.parametrize("width", [64, 128])
def test_descriptors_save_registers(tmp_path, width):
    pointers, boxes = (
        compile_for(tmp_path, "attention", width, "--loads", loads)
        for loads in ("pointers", "descriptors")
    )
    check(boxes)
    assert boxes["tiles"] == pointers["tiles"]
    assert boxes["kernels"][0]["registers"] < pointers["kernels"][0]["registers"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [72, 80, 96, 192])
@pytest.mark.parametrize("name", ["causal", "sliding_window", "grouped_query"])
def test_descriptors_of_odd_widths(tmp_path, name, width):
    check(compile_for(tmp_path, name, width, "--loads", "descriptors"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", NAMES)
def test_descriptors(tmp_path, name, width):
    check(compile_for(tmp_path, name, width, "--loads", "descriptors"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", ["attention", "causal", "alibi", "grouped_query"])
def test_warps_that_only_load(tmp_path, name, width):
    found = compile_for(tmp_path, name, width, "--loads", "specialised")
    check(found)
    (kernel,) = found["kernels"]
    assert (found["num_warps"], kernel["num_warps"]) == (4, 12)
    assert kernel["wgmma_instructions"] > 0


def test_loads_that_no_warps_of_their_own_can_do(tmp_path):
    path, target = str(FOLDER / "sliding_window.cascade"), ["--target", "sm_90"]
    text = refused(tmp_path, "--loads", "specialised", path=path, target=target)
    assert "error[specialise]" in text and "--loads descriptors" in text
    assert "Pipeline failed" not in text
    text = refused(tmp_path, "--loads", "specialised", target=["--target", "sm_80"])
    assert "sm_80 copies no boxes by itself" in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", NAMES)
def test_every_example(tmp_path, name, width):
    check(compile_for(tmp_path, name, width))


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", ["retention", "delta_rule"])
def test_gradients_of_chunked_forms(tmp_path, name, width):
    path = tmp_path / "gradient.cascade"
    path.write_text(str(cascade.gradient(spec(name)).backward))
    check(compile_for(tmp_path, name, width, path=path))


@pytest.mark.slow
@pytest.mark.parametrize("width", [72, 80, 96, 192])
def test_odd_widths(tmp_path, width):
    check(compile_for(tmp_path, "causal", width))


@pytest.mark.slow
@pytest.mark.parametrize("name", SOFTMAX)
def test_matrix_units(tmp_path, name):
    for kernel in compile_for(tmp_path, name, 64)["kernels"]:
        assert kernel["wgmma_instructions"] == kernel["tensor_core_instructions"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
def test_other_targets(tmp_path, target, width):
    found = compile_for(tmp_path, "causal", width, "--target", target)
    check(found)
    assert all(k["tensor_core_instructions"] > 0 for k in found["kernels"])
