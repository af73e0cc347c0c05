"""Functions that were traced wrong: each gives what PyTorch gives, or an error with its line."""

import inspect

import numpy as np
import pytest

import cascade

torch = pytest.importorskip("torch")

F = torch.nn.functional
LOW = -float("inf")


def real(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def same(function, *given):
    """The traced cascade and its text give what the function gives."""
    made = cascade.trace(function, *given)
    assert cascade.parse(str(made)) == made
    named = dict(zip(inspect.signature(function).parameters, given, strict=False))
    found = cascade.run(made, {t.name: named[t.name].numpy() for t in made.inputs})
    wanted = function(*(g.clone() for g in given))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    assert len(made.outputs) == len(wanted)
    for name, expected in zip(made.outputs, wanted, strict=True):
        assert found[name].shape == tuple(expected.shape)
        assert found[name].dtype.kind == expected.numpy().dtype.kind
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-9, atol=1e-9)


SQUARE = {
    "x @ x": lambda x: x @ x,
    "x + x.T": lambda x: x + x.T,
    "sums": lambda x: x.sum(0) * x.sum(1),
    "sum and product": lambda x: x.sum(0) @ x,
    "means": lambda x: x - x.mean(1),
    "softmax twice": lambda x: x.softmax(0) @ x.softmax(0),
    "softmax of a transpose": lambda x: (x * x.T).softmax(1),
    "cumsum of a transpose": lambda x: x.cumsum(0).T + x.cumsum(0),
    "cumsums": lambda x: x.cumsum(0) @ x.cumsum(1),
    "a gather of a sum": lambda x: (x[:, None] * x).sum(2)[torch.arange(4) // 2],
    "a batch that is a row": lambda x: x @ (x[:, :, None] * x),
    "a mask of no input": lambda x: x.masked_fill(torch.ones(4, 4).tril() == 0, -1e9),
}


@pytest.mark.parametrize("function", SQUARE.values(), ids=SQUARE)
def test_ranks_of_one_size_stay_apart(function):
    same(function, real(4, 4))
