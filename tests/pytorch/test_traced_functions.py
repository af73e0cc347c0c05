"""Functions that were traced wrong: each gives what PyTorch gives, or an error with its line."""

import inspect

import numpy as np
import pytest

import cascade

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")

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


def low(x):
    """Scores of which some are minus infinity, in no row all."""
    return x.masked_fill(x > x.mean(-1, keepdim=True), LOW)


ABSENT = {
    "scores": low,
    "1 more than weights": lambda x: low(x).softmax(-1) + 1e-6,
    "what is left": lambda x: 1 - low(x).exp(),
    "a gate": lambda x: low(x).sigmoid() + 1,
    "log weights": lambda x: low(x).log_softmax(-1),
    "clamped": lambda x: low(x).clamp(min=-5),
    "capped": lambda x: (2 * low(x).tanh()).softmax(-1),
    "rectified": lambda x: low(x).relu().softmax(-1),
    "negated": lambda x: -low(x),
    "equal to it": lambda x: low(x) == LOW,
    "how many are 0": lambda x: (low(x).softmax(-1) == 0).sum(-1),
    "mean": lambda x: low(x).softmax(-1).mean(-1),
    "product": lambda x: low(x).softmax(-1).prod(-1),
    "smallest": lambda x: low(x).softmax(-1).amin(-1),
    "prefix sums": lambda x: low(x).softmax(-1).cumsum(-1),
    "a choice": lambda x: torch.where(low(x).softmax(-1) > 0.3, 1.0, 2.0),
    "a choice of it": lambda x: torch.where(x < 0, 5.0, low(x).exp()),
    "two masks": lambda x: low(x).masked_fill(x < -1, LOW).logsumexp(-1),
    "in both": lambda x: torch.where(x > 0, LOW, LOW),
    "weights of values": lambda x: (low(x).softmax(-1) + 1) @ x,
    "a difference of masks": lambda x: low(x).exp() - low(x.T).exp(),
    "by hand": lambda x: (low(x) - low(x).amax(-1, keepdim=True)).exp() * 2,
}


@pytest.mark.parametrize("function", ABSENT.values(), ids=ABSENT)
def test_what_is_absent_has_the_number_of_pytorch(function):
    torch.manual_seed(0)
    same(function, real(4, 4))


def test_numbers_are_put_only_where_they_count():
    """A mask before a softmax stays a condition: `??` would hide it from kernels."""
    made = cascade.trace(lambda q, k, v: low(q @ k.T / 2).softmax(-1) @ v, *(real(4, 4),) * 3)
    assert "??" not in str(made)


WHOLE = {
    "floor": lambda n, x: n // 3,
    "floor of a negative divisor": lambda n, x: n // -3,
    "remainder": lambda n, x: n % -3,
    "of a number": lambda n, x: 7 % (n.abs() + 1) + 7 // (n.abs() + 1),
    "fmod": lambda n, x: torch.fmod(n, 3),
    "real fmod": lambda n, x: torch.fmod(x, 0.7),
    "real remainder": lambda n, x: x % 0.7,
    "real floor": lambda n, x: x // 0.7,
    "truncated": lambda n, x: torch.div(n, 3, rounding_mode="trunc"),
    "real truncated": lambda n, x: torch.div(x, 0.7, rounding_mode="trunc"),
    "real floored": lambda n, x: torch.div(x, 0.7, rounding_mode="floor"),
    "to integers": lambda n, x: (3 * x).long(),
    "to a type": lambda n, x: (3 * x).to(torch.int64),
    "to a type by keyword": lambda n, x: (3 * x).to(dtype=torch.int64),
    "to truth": lambda n, x: n.to(torch.bool),
    "from truth": lambda n, x: (x > 0).to(torch.float64),
    "truth times": lambda n, x: (x > 0) * x,
    "truth and truth": lambda n, x: ((x > 0) + (n > 0)) * (x < 1),
    "truth summed": lambda n, x: (x > 0).double().sum(-1) + (x > 0).sum(),
    "mean of truth": lambda n, x: (x > 0).double().mean(-1),
    "one or the other": lambda n, x: (x > 0) ^ (n > 0),
    "any": lambda n, x: n.any(-1),
    "sum of a type": lambda n, x: n.sum(-1, dtype=torch.float64),
    "floors are real": lambda n, x: (3 * x).floor() + (3 * x).trunc(),
}


@pytest.mark.parametrize("function", WHOLE.values(), ids=WHOLE)
def test_integers_and_truth_values(function):
    torch.manual_seed(0)
    same(function, torch.randint(-9, 9, (3, 4)), real(3, 4))


INDEX = {
    "pairs": lambda x, n: x[n, n],
    "a diagonal": lambda x, n: x[torch.arange(4), torch.arange(4)],
    "a grid": lambda x, n: x[n[:, None], n[None, :]],
    "apart": lambda x, n: x[:, None][n, :, n],
    "past the end": lambda x, n: x[1:10],
    "before the start": lambda x, n: x[-10:],
    "one row": lambda x, n: x[:, :1] * x + x[-1:],
    "from the end": lambda x, n: x[n - 4],
    "some from the end": lambda x, n: x[torch.arange(4) - 1],
    "from both": lambda x, n: x[:, (torch.arange(3)[:, None] - torch.arange(3))],
    "gather": lambda x, n: x.gather(1, n[:, None]),
    "gather less": lambda x, n: x.gather(1, n[:2, None]),
    "gather of one": lambda x, n: x[:, :1].gather(1, 0 * n[:, None].expand(4, 2)) * n[:, None],
    "gather of one row": lambda x, n: x[:1].gather(1, x[:1].topk(2).indices) * n[:2],
    "along": lambda x, n: torch.take_along_dim(x, n[None, :2], 1),
    "best": lambda x, n: x.topk(1).values * x,
    "counted to 1": lambda x, n: x[:1][torch.arange(1), torch.arange(1)] + x[:1].argmax(1),
    "the best of none": lambda x, n: x[x.masked_fill(x > x[:1].amin(), LOW).argmax(0)],
    "the only one": lambda x, n: x + x[:1].argmax(0),
    "the last of the best": lambda x, n: x + x.topk(3).values[:, -1:],
}


@pytest.mark.parametrize("function", INDEX.values(), ids=INDEX)
def test_indices(function):
    torch.manual_seed(0)
    same(function, real(4, 4), torch.tensor([3, 0, 2, 2]))


def test_negative_indices():
    same(lambda x, n: x[n] + x[:, n], real(4, 4), torch.tensor([3, -1, 0, -4]))


def changed(x):
    y = x.clone()
    z = y
    y *= 2
    z.add_(1).masked_fill_(x > 0, 0.0)
    return y, z, F.relu(x, inplace=True)


def parts(x):
    a, b = x.chunk(2, -1)
    c, d = x.split([1, 3])
    return a @ b.T, c * d.sum(0), x.split(3)[1] + x.unbind(1)[2], x.narrow(0, 1, 2), x.select(1, -1)


def turned(x):
    """Rotary embedding by halves, as models have it."""
    a, b = x.chunk(2, -1)
    angle = torch.cat((x[:, :2], x[:, 2:]), -1)
    return x * angle.cos() + torch.cat((-b, a), dim=-1) * angle.sin()


@torch.no_grad()
def all_without_gradients(x):
    return (x - x.amax(-1, keepdim=True)).exp()


def partly_without_gradients(x):
    with torch.no_grad():
        norm = x.square().sum()
        rows = torch.arange(4)[:, None]
    return x * rows / norm


OTHER = {
    "turned": turned,
    "one after the other": lambda x: torch.cat([x, x.T, x[:1], 2 * x[1:]]),
    "columns": lambda x: torch.concat((x, x[:, :1], x.cumsum(1)), dim=1),
    "a stack": lambda x: torch.stack([x, x.T, x @ x], -2),
    "a stack of numbers": lambda x: torch.stack([x.sum(), x.amax()]),
    "kinds side by side": lambda x: torch.cat([x, x > 0, torch.arange(4)[None]]),
    "one alone": lambda x: torch.cat([x[:1]]) + torch.cat([x], 1),
    "scores side by side": lambda x: torch.cat([x, low(x)], 1).softmax(-1),
    "without gradients": all_without_gradients,
    "parts": parts,
    "in place": changed,
    "constants in place": lambda x: torch.zeros(4, 4, dtype=x.dtype).add_(x),
    "several times": lambda x: (x @ x, (x @ x).T, x @ x + 1),
    "softplus": lambda x: F.softplus(x, 2),
    "sizes": lambda x: x * (9 // x.shape[1] + 2 ** x.shape[1] - (1 - x.shape[0] ** 0.5)),
    "repeated": lambda x: x[:1].repeat_interleave(4, 0) * x,
    "a sum of no dimension": lambda x: x.sum(dim=()),
    "where, as a method": lambda x: x.where(x > 0, 0.0),
    "likes": lambda x: torch.where(x > 0, torch.zeros_like(x), x.new_full((4,), 2)),
    "steps": lambda x: x * torch.arange(1, 8, 2) + torch.arange(end=4, dtype=torch.float64),
    "numbers of NumPy": lambda x: np.float64(2) * x - np.int64(1),
    "dropout that is off": lambda x: F.dropout(x, 0.5, training=False),
    "a row without a key": lambda x: F.scaled_dot_product_attention(
        x, x, x, torch.where(x < x[:1], LOW, x) + torch.where(x[:, :1] > 0, LOW, x)
    ),
    "other transposes": lambda x: (x[:, None] * x).T + x[0].T * x.sum().T,
    "integers are detached": lambda x: x * x.argmax(-1).detach(),
    "causal, one query": lambda x: F.scaled_dot_product_attention(x[:1], x, x, is_causal=True),
}


@pytest.mark.parametrize("function", OTHER.values(), ids=OTHER)
def test_other_functions(function):
    torch.manual_seed(0)
    same(function, real(4, 4))


def stale(x):
    y = x * 1
    z = y.T
    y += 1
    return z


REFUSED = {
    "`narrow` of a tensor that": lambda x: [p.mul_(2).narrow(0, 0, 1) for p in x.chunk(2)],
    "`split` of 4": lambda x: x.split([1, 2]),
    "of a tensor that was changed": lambda x: stale(x) * 1,
    "a result that was changed": stale,
    "an assignment to a part": lambda x: x.clone().__setitem__(0, 1),
    "`out=`": lambda x: torch.exp(x, out=x),
    "dropout": lambda x: F.dropout(x),
    "index 4": lambda x: x[4],
    "an index up to 4": lambda x: x[torch.arange(5)],
    "3 indices": lambda x: x[0, 0, 0],
    "without a point": lambda x: x[2:2],
    "dimension 2": lambda x: x.sum(2),
    "a dimension twice": lambda x: x.sum((0, -2)),
    "a permutation": lambda x: x.permute(0, 0),
    "a view": lambda x: x.expand(5, 4),
    "shapes (1, 4)": lambda x: x[:1] @ x[:1],
    "`topk` of 5": lambda x: x.topk(5),
    "`softmax` without": lambda x: F.softmax(x),
    "with these arguments": lambda x: x.sum(0, keepdims=True),
    "in `torch.no_grad()`": partly_without_gradients,
    "`cat` of shapes (4, 4) and (1, 4)": lambda x: torch.cat([x, x[:1]], 1),
    "`detach`": lambda x: x - x.mean().detach(),
    "the name `a sum`": lambda x: {"a sum": x.sum()},
    "`lshift`": lambda x: x << 1,
    "the bits of integers": lambda x: x.long() & 1,
    "`is_leaf`": lambda x: x.is_leaf,
    "type NoneType": lambda x: (x, None),
    "type complex": lambda x: x * 1j,
    "NaN": lambda x: x.masked_fill(x > 0, float("nan")),
    "a size of `x`": lambda x: torch.zeros_like(x),
    "number made of a tensor": lambda x: x[: x.long()[0, 0]],
}


@pytest.mark.parametrize(("words", "function"), REFUSED.items(), ids=REFUSED)
def test_what_has_no_form_is_said_with_its_line(words, function):
    with pytest.raises(cascade.CascadeError) as error:
        cascade.trace(function, real(4, 4))
    assert words in str(error.value)
    assert "test_traced_functions.py:" in str(error.value)


BESIDE = {
    "a sum": lambda x: x / x.square().sum(0) + x.cumsum(0),
    "a softmax": lambda x: x.softmax(0) * x.cumsum(0),
    "its end": lambda x: x.cumsum(0) - x.sum(0) * x.amax(0),
}


@pytest.mark.parametrize("function", BESIDE.values(), ids=BESIDE)
def test_a_prefix_sum_runs_in_the_loop_that_reads_it(function):
    """A sum of the whole asks for a loop of its own, and the prefix sum starts after it."""
    torch.manual_seed(0)
    x = real(200, 3).float()
    found = cascade.compile(cascade.trace(function, x))(x=x)
    torch.testing.assert_close(found, function(x.double()).float(), rtol=1e-4, atol=1e-4)


def test_gradients_that_share_a_sum_in_two_orders_of_its_ranks():
    """The gain of queries and of keys is one, and both parts of its gradient sum over the batch."""

    def gained(x, w, wo, g):
        b, p, d = x.shape
        q, k, v = (t.transpose(1, 2) for t in (x @ w).view(b, p, 3, 2, d // 2).unbind(2))
        q, k = F.rms_norm(q, (d // 2,), g, 1e-6), F.rms_norm(k, (d // 2,), g, 1e-6)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.transpose(1, 2).reshape(b, p, d) @ wo

    torch.manual_seed(0)
    given = {"x": real(2, 5, 4), "w": real(4, 12), "wo": real(4, 4), "g": real(2)}
    kernel = cascade.compile(cascade.trace(gained, *given.values()))
    single = {n: t.float().requires_grad_() for n, t in given.items()}
    double = {n: t.requires_grad_() for n, t in given.items()}
    found = torch.autograd.grad(kernel(**single).square().sum(), list(single.values()))
    wanted = torch.autograd.grad(gained(**double).square().sum(), list(double.values()))
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f.double(), w, rtol=1e-3, atol=1e-3)
