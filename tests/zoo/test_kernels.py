"""Every mechanism of the zoo through the interpreter of Triton, and compiled for sm_90."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade.ir.expr import Symbol
from cascade.ir.extents import bind
from tests.zoo.registry import Mechanism
from tests.zoo.test_zoo import EACH, FOLDER, agree, drawn, load

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton.launch import TritonKernel  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
WIDTHS = {"E": 64, "F": 64}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


@EACH
def test_interpreter(mechanism: Mechanism) -> None:
    spec, arrays = load(mechanism), drawn(mechanism)
    with np.errstate(all="ignore"):
        found = TritonKernel(spec)(**{n: tensor(a) for n, a in arrays.items()}, **mechanism.params)
    found = found if isinstance(found, dict) else {spec.outputs[0]: found}
    wanted = mechanism.reference(arrays | dict(mechanism.params))
    agree({n: array(t) for n, t in found.items()}, wanted, 5e-5)


def tensor(a: Any) -> Any:
    made = torch.from_numpy(np.asarray(a, order="C"))
    return made.float() if made.dtype == torch.float64 else made


def array(t: Any) -> Any:
    return np.asarray(t.double() if t.dtype.is_floating_point else t)


@EACH
def test_ahead_of_time(mechanism: Mechanism, tmp_path: Path) -> None:
    """For sm_90, the heads 64 wide."""
    spec, arrays = load(mechanism), drawn(mechanism)
    bound = bind(spec, {n: np.shape(a) for n, a in arrays.items()}, dict(mechanism.params))
    own = {
        r.upper(): n for r, n in bound.extents.items() if spec.rank[r].extent == Symbol(r.upper())
    }
    given = {**own, **{n: w for n, w in WIDTHS.items() if n in own}, **mechanism.params}
    command = [
        sys.executable,
        "-m",
        "cascade",
        "compile",
        str(FOLDER / f"{mechanism.name}.cascade"),
    ]
    command += ["-o", str(tmp_path / "kernels.py"), "--target", "sm_90", "--json"]
    command += ["--set", ",".join(f"{n}={v}" for n, v in given.items())]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "triton")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(k["fits"] for k in json.loads(done.stdout)["kernels"])
