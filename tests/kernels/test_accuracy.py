"""How far kernels are from float64, beside what people run: float32 formulas, and torch in float16.

float32 may have twice the error of the formula written by hand; float16 that of torch's own kernel,
up to the luck of a rounding at one point.
"""

from typing import Any

import numpy as np
import pytest

from tests.examples.test_examples import spec

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton.launch import TritonKernel  # noqa: E402

# The interpreter takes scalars out of arrays of one element.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

LENGTHS = (1, 17, 122, 128, 257)
WIDTHS = (16, 32, 40, 64, 72, 128)
SINKS = 4
WINDOWS = (0, 5, 300)  # a head each; the first sees the sinks alone


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


def inputs(p: int, m: int, d: int, dtype: Any, loud: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng([p, m, d])
    shapes = {"Q": p, "K": m, "V": m}
    batch = 8 if p == 1 else 1  # the largest error of a single row is a matter of luck
    made = {n: rng.standard_normal((batch, len(WINDOWS), x, d)) for n, x in shapes.items()}
    made["Q"] *= loud
    return {n: torch.from_numpy(x).to(dtype) for n, x in made.items()}


def seen(name: str, p: int, m: int) -> Any:
    """Which keys a query sees, by head."""
    rows, columns = torch.arange(p)[:, None], torch.arange(m)[None, :]
    if name == "attention":
        return torch.ones(1, p, m, dtype=torch.bool)
    if name == "causal":
        return (columns <= rows)[None]
    window = torch.tensor(WINDOWS)[:, None, None]
    return (columns <= rows) & ((rows - columns < window) | (columns < SINKS))


def formula(q: Any, k: Any, v: Any, mask: Any) -> Any:
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    return torch.nan_to_num(scores.softmax(-1)) @ v


def in_single(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """The formula as products of matrices, as in a tile: that of a row alone sums in other lanes,
    and by the processor has several times the accuracy.
    """
    rows = q.shape[2]
    if rows > 1:
        return formula(q, k, v, mask)
    return formula(q.repeat(1, 1, 64, 1), k, v, mask)[:, :, :rows]


def check(name: str, made: TritonKernel, given: dict[str, Any]) -> None:
    mask = seen(name, given["Q"].shape[2], given["K"].shape[2])
    more = {"window": torch.tensor(WINDOWS)} if name == "sliding_window" else {}
    with np.errstate(all="ignore"):
        out = made(**given, **more)
    out = out["O"] if isinstance(out, dict) else out
    q, k, v = (given[n].double() for n in "QKV")
    wanted = formula(q, k, v, mask)
    if given["Q"].dtype == torch.float32:
        peer, most, usual = in_single(given["Q"], given["K"], given["V"], mask), 2.0, 2.0
    else:
        peer = torch.nn.functional.scaled_dot_product_attention(*given.values(), attn_mask=mask)
        peer, most, usual = torch.nan_to_num(peer), 1.5, 1.05
    own, other = ((x.double() - wanted).abs() for x in (out, peer))
    smallest = torch.finfo(out.dtype).eps * wanted.abs().max() / 4  # a rounding of the output
    assert out.dtype == given["Q"].dtype
    assert own.max() <= most * other.max() + smallest, (own.max(), other.max())
    assert own.mean() <= usual * other.mean() + smallest / 4, (own.mean(), other.mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["attention", "causal", "sliding_window"])
def test_some_lengths(name, dtype):
    made = TritonKernel(spec(name), {"p": 64, "m": 64})
    for p, m, d in (1, 17, 64), (122, 122, 72), (128, 257, 32), (257, 17, 16):
        check(name, made, inputs(p, m, d, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_loud_logits(dtype):
    made = TritonKernel(spec("causal"), {"p": 64, "m": 64})
    check("causal", made, inputs(122, 122, 64, dtype, loud=1e4))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("name", ["attention", "causal", "sliding_window"])
def test_every_length(name, d, dtype):
    made = TritonKernel(spec(name), {"p": 64, "m": 64})
    for p in LENGTHS:
        for m in LENGTHS:
            check(name, made, inputs(p, m, d, dtype))
