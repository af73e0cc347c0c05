"""Every registered mechanism: its reference, its passes, its kernels in NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.api import run_program
from cascade.backends.differences import differences
from cascade.ir.kinds import tensor_kinds
from tests.zoo import linear, patterns, recurrent, selection, softmax
from tests.zoo.registry import Mechanism

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "zoo"
ALL: tuple[Mechanism, ...] = (
    *softmax.MECHANISMS,
    *selection.MECHANISMS,
    *patterns.MECHANISMS,
    *linear.MECHANISMS,
    *recurrent.MECHANISMS,
)
FAMILIES = ("softmax", "selection", "linear")
EACH = pytest.mark.parametrize("mechanism", ALL, ids=lambda m: m.name)


def load(mechanism: Mechanism) -> Any:
    return cascade.load(FOLDER / f"{mechanism.name}.cascade")


def drawn(mechanism: Mechanism, seed: int = 0) -> dict[str, Any]:
    return mechanism.inputs(np.random.default_rng([seed, *mechanism.name.encode()]))


def agree(found: Any, wanted: Any, tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert found[name].shape == np.shape(expected), name
        assert not np.isnan(found[name]).any(), name
        np.testing.assert_allclose(found[name], expected, rtol=tolerance, atol=tolerance)


@EACH
def test_agrees_with_its_reference(mechanism: Mechanism) -> None:
    for seed in range(3):
        arrays = drawn(mechanism, seed)
        found = cascade.run(load(mechanism), arrays, dict(mechanism.params))
        agree(found, mechanism.reference(arrays | dict(mechanism.params)), mechanism.tolerance)


@EACH
def test_has_the_passes_of_the_literature(mechanism: Mechanism) -> None:
    report = cascade.analyse(load(mechanism))
    assert report.derived_passes is not None
    found = report.passes.of_rank()[mechanism.rank], report.derived_passes[mechanism.rank]
    assert found == (mechanism.written, mechanism.derived)


@EACH
def test_runs_as_kernels(mechanism: Mechanism) -> None:
    """The Program in NumPy computes in float32."""
    arrays = drawn(mechanism)
    found, _ = run_program(load(mechanism), arrays, dict(mechanism.params), {})
    agree(found, mechanism.reference(arrays | dict(mechanism.params)), 3e-5)


def test_every_spec_of_these_families_is_registered() -> None:
    def family(path: Path) -> bool:
        return any(f"# Family: {name}\n" in path.read_text() for name in FAMILIES)

    assert {m.name for m in ALL} == {p.stem for p in FOLDER.glob("*.cascade") if family(p)}


CORNERS = {"vision_divergence"}  # a length that is 0 where nothing is visual


@EACH
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gradient(mechanism: Mechanism) -> None:
    """The derived gradient against central differences, whatever the extents."""
    spec = load(mechanism)
    kinds = tensor_kinds(spec)
    if all(kinds[o] in ("int", "bool") for o in spec.outputs):
        return  # it selects: there is nothing to differentiate
    trials = differences(spec, cascade.gradient(spec), 0, 4)
    if mechanism.name not in CORNERS:
        wrong = [t for t in trials if t.defined and t.extents.get("E", 1) and not t.ok]
        assert not wrong, wrong[0]
        assert any(t.smooth and t.scale > 1 for t in trials)
