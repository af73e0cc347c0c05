"""A spec beside its peers."""

from collections.abc import Callable
from dataclasses import replace

import pytest

import cascade
from cascade.comparison import compare, text
from cascade.diagnostics import InputError

torch = pytest.importorskip("torch")

SMALL = {"B": 1, "H": 2, "P": 33, "M": 33, "E": 8, "F": 8}


@pytest.mark.parametrize("backward", [False, True])
def test_peers_agree(backward: bool) -> None:
    spec = cascade.load("examples/attention.cascade")
    found = compare(spec, ["eager", "sdpa"], SMALL, 2, backward=backward)
    assert found["pass"] == ("backward" if backward else "forward")
    assert [r["name"] for r in found["rows"]] == ["cascade", "cascade again", "eager", "sdpa"]
    assert all(r["difference"] < 1e-5 and r["ratio"] > 0 for r in found["rows"])
    assert ("backward" in text(found)) is backward


SIZES = {n: SMALL[n] for n in "PMEF"}
OWN = """cascade {}
input Q[p,e], K[m,e], V[m,f]
param cap = 2.0
A[p,m] = sigmoid(cap * tanh(sum[e](Q[p,e] * K[m,e]) / cap) where m <= p)
O[p,f] = A[p,m] * V[m,f]
output O
"""


@pytest.mark.parametrize("name", ["own", "attention"])
def test_a_spec_of_ones_own_is_compared_with_its_statements(name: str) -> None:
    """Peers of an example are for what it computes, not for its name."""
    found = compare(cascade.parse(OWN.format(name)), ["eager", "sdpa"], SIZES | {"cap": 1.5}, 2)
    assert [r["name"] for r in found["rows"]] == ["cascade", "cascade again", "eager"]
    assert all(r["difference"] < 1e-5 for r in found["rows"])
    assert found["not_expressible"] == ["sdpa"]


def test_an_example_under_another_name_has_its_peers() -> None:
    text = cascade.load("examples/causal.cascade")
    found = compare(replace(text, name="mine"), ["sdpa"], SMALL, 1)
    assert [r["name"] for r in found["rows"]] == ["cascade", "cascade again", "sdpa"]


def test_a_backward_pass_has_no_roofline() -> None:
    spec = cascade.load("examples/attention.cascade")
    with pytest.raises(InputError, match="no roofline"):
        compare(spec, ["eager"], SMALL, 1, target="h100", backward=True)


def test_a_peer_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from cascade.backends import peers

    def peer(kind: str, name: str, tensors: object) -> Callable[[], object]:
        def run() -> object:
            raise torch.cuda.OutOfMemoryError("out of memory\nat all")

        if kind == "flex":
            run()
        return run

    monkeypatch.setattr(peers, "peer", peer)
    spec = cascade.load("examples/attention.cascade")
    found = compare(spec, ["eager", "flex"], SMALL, 2, tune=True)
    assert [r["name"] for r in found["rows"]] == ["cascade", "cascade again"]
    assert found["failed"] == dict.fromkeys(("flex", "eager"), "OutOfMemoryError: out of memory")
    assert "flex did not run: OutOfMemoryError: out of memory" in text(found)
    assert found["tuned"] is None  # on a processor there is nothing to tune
