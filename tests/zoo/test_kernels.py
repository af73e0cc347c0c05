"""Every mechanism of the zoo through the interpreter of Triton, and compiled for sm_90."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade.backends.kernel import TiledKernel
from cascade.diagnostics import InputError
from cascade.ir.expr import Symbol
from cascade.zoo import entry
from tests.zoo.registry import Mechanism
from tests.zoo.test_zoo import EACH, FOLDER, agree, drawn, load

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton.launch import TritonKernel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
WIDTHS = {"E": 64, "F": 64}
LONGEST = 600  # seconds for the kernels of one spec
COMPUTED_BOUNDS = {"flex_prefill_pattern"}  # rows of which a phase says whether they count


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


@pytest.mark.slow
@EACH
def test_interpreter(mechanism: Mechanism) -> None:
    spec, arrays = load(mechanism), drawn(mechanism)
    with np.errstate(all="ignore"):
        found = TritonKernel(spec)(**{n: tensor(a) for n, a in arrays.items()}, **mechanism.params)
    found = found if isinstance(found, dict) else {spec.outputs[0]: found}
    wanted = mechanism.reference(arrays | dict(mechanism.params))
    agree({n: array(t) for n, t in found.items()}, wanted, 5e-5)


@EACH
def test_prediction_is_what_is_counted(mechanism: Mechanism) -> None:
    spec, params = load(mechanism), dict(mechanism.params)
    arrays = {n: np.asarray(a) for n, a in drawn(mechanism).items()}
    arrays = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    made = TiledKernel(spec, {r: 4 for r in "bhpmtdniky" if r in spec.rank}, threads=2)
    result = made.run(arrays, params)
    if mechanism.name in COMPUTED_BOUNDS:
        with pytest.raises(InputError, match="which only a run computes"):
            made.measured(arrays, params, result)
        return
    both = made.measured(arrays, params, result)
    for found in both["kernels"].values():
        assert found["predicted"]["tensors"] == found["measured"]["tensors"]
        assert found["predicted"]["loops"] == found["measured"]["loops"]
    assert 0 < both["peak_bytes"] <= both["most_bytes"]


def tensor(a: Any) -> Any:
    made = torch.from_numpy(np.asarray(a, order="C"))
    return made.float() if made.dtype == torch.float64 else made


def array(t: Any) -> Any:
    return np.asarray(t.double() if t.dtype.is_floating_point else t)


@pytest.mark.campaign
@EACH
def test_ahead_of_time(mechanism: Mechanism, tmp_path: Path) -> None:
    """For sm_90, the heads 64 wide, other extents those of the file or usual ones."""
    spec = load(mechanism)
    path = FOLDER / f"{mechanism.name}.cascade"
    own = {r.name.upper() for r in spec.ranks if r.extent == Symbol(r.name.upper())}
    given = {**entry(mechanism.name).sizes, **{n: w for n, w in WIDTHS.items() if n in own}}
    command = [sys.executable, "-m", "cascade", "compile", str(path), "--target", "sm_90", "--json"]
    command += ["-o", str(tmp_path / "kernels.py")]
    if given:
        command += ["--set", ",".join(f"{n}={v}" for n, v in given.items())]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "triton")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LONGEST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(k["fits"] for k in json.loads(done.stdout)["kernels"])
