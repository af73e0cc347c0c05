"""The operator: gradients, compilation, export, and what users do with tensors."""

import numpy as np
import pytest

import cascade
from cascade.backends.compare import draw
from cascade.ir.kinds import tensor_kinds
from tests.examples.test_examples import NAMES, spec

torch = pytest.importorskip("torch")

from cascade.integrations.pytorch.function import Options  # noqa: E402

ROUNDED = {"layernorm_matmul_moments"}  # a corner where the variance is 0


def tensors(*shape, number=3, dtype=None, grad=True, seed=0):
    torch.manual_seed(seed)
    dtype = dtype or torch.float64
    return [torch.randn(*shape, dtype=dtype).requires_grad_(grad) for _ in range(number)]


@pytest.fixture(scope="module")
def causal():
    return cascade.compile(spec("causal"))


def attend(kernel, q, k, v):
    return kernel(Q=q, K=k, V=v)["O"]


def arguments(name, seed):
    """Inputs as tensors, real ones in float64 with gradients, and settings."""
    for trial in range(20):
        chance = np.random.default_rng([17, seed, trial])
        drawn = draw(spec(name), chance, "positive" if trial % 2 else "normal")
        if drawn is None or min(drawn[0].values()) < 2:
            continue
        _, inputs, settings, _ = drawn
        made = {n: torch.from_numpy(np.asarray(a)) for n, a in inputs.items()}
        for t in made.values():
            t.requires_grad_(t.is_floating_point())
        return made, settings
    raise AssertionError(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gradcheck(name):
    """In float64, fast mode: a random direction for all inputs against differences."""
    inputs, settings = arguments(name, 0)
    kernel = cascade.compile(spec(name))
    real = [n for n, t in inputs.items() if t.requires_grad]
    kinds = tensor_kinds(spec(name))
    outputs = [o for o in spec(name).outputs if kinds[o] != "int"]

    def function(*given):
        out = kernel(**{**inputs, **dict(zip(real, given, strict=True))}, **settings)
        out = out if isinstance(out, dict) else {spec(name).outputs[0]: out}
        return tuple(out[o] for o in outputs)

    if name not in ROUNDED:
        assert torch.autograd.gradcheck(function, [inputs[n] for n in real], fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gradients_equal_autograd_of_the_eager_formula(name):
    inputs, settings = arguments(name, 1)
    kernel = cascade.compile(spec(name))
    real = [n for n, t in inputs.items() if t.requires_grad]
    found = kernel(**inputs, **settings)
    wanted = cascade.as_torch(spec(name))(**inputs, **settings)
    found, wanted = (
        x if isinstance(x, dict) else {spec(name).outputs[0]: x} for x in (found, wanted)
    )
    total = [torch.zeros((), dtype=torch.float64) for _ in range(2)]
    generator = torch.Generator().manual_seed(3)
    for output in wanted:
        torch.testing.assert_close(found[output], wanted[output])
        if wanted[output].is_floating_point():
            weight = torch.randn(wanted[output].shape, generator=generator, dtype=torch.float64)
            total[0] = total[0] + (found[output] * weight).sum()
            total[1] = total[1] + (wanted[output] * weight).sum()
    for a, b in zip(
        *(torch.autograd.grad(t, [inputs[n] for n in real]) for t in total), strict=True
    ):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


UNUSED = {
    "masked": "y[m] = x[m] where m > 1\nz[m] = s * log(m - 1) + y[m]",
    "where": "z[m] = s * log(m - 1) + x[m] where m > 1",
    "filtered": "z = sum[m](s * sqrt(x[m]) where m > 0)",
    "factor": "z = sum[m](x[m+1] * s * log(3 - m))",
    "branch": "z[m] = select(x[m] > 0, s * log(x[m]), s * x[m])",
    "default": "z[m] = x[m+1] ?? (s * log(x[m] - 2))",
    "condition": "y[m] = x[m] where log(x[m]) > 0\nz[m] = y[m] * exp(1000 / x[m] - 999) * s",
}


@pytest.mark.parametrize("text", UNUSED.values(), ids=UNUSED)
def test_what_no_result_depends_on_has_no_gradient(text):
    """Where it is infinite or not a number, too."""
    made = cascade.parse(f"input x[m], s\n{text}\noutput z\n")
    x = torch.tensor([0.0, 2.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    s = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    plain, derived = (f(x=x, s=s) for f in (cascade.as_torch(made), cascade.compile(made)))
    torch.testing.assert_close(plain, derived)
    found, wanted = (torch.autograd.grad(z.sum(), (x, s)) for z in (plain, derived))
    assert all(g.isfinite().all() for g in found)
    torch.testing.assert_close(found, wanted)


def test_double_backward(causal):
    q, k, v = tensors(1, 1, 3, 2)
    assert torch.autograd.gradgradcheck(
        lambda *x: tuple(causal(Q=x[0], K=x[1], V=x[2]).values()), (q, k, v)
    )


def test_a_checkpoint_makes_what_was_saved_again(causal):
    q, k, v = tensors(1, 2, 5, 4)
    plain = torch.autograd.grad(attend(causal, q, k, v).sin().sum(), (q, k, v))
    again = torch.utils.checkpoint.checkpoint(attend, causal, q, k, v, use_reentrant=False)
    found = torch.autograd.grad(again.sin().sum(), (q, k, v))
    assert all(torch.equal(f, p) for f, p in zip(found, plain, strict=True))


def test_empty_rows_have_gradient_zero():
    made = cascade.compile(spec("paged_keys"))
    q = torch.randn(2, 1, 3, 4, requires_grad=True)
    k, v = (torch.randn(2, 1, 4, 4, requires_grad=True) for _ in range(2))
    page, length = torch.tensor([[0], [1]]), torch.tensor([0, 3])
    out = made(Q=q, K=k, V=v, page=page, length=length)
    assert (out[0] == 0).all()
    out.sum().backward()
    assert (q.grad[0] == 0).all() and (k.grad[0] == 0).all()
    assert all(t.grad.isfinite().all() for t in (q, k, v)) and (q.grad[1] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_types_are_kept(causal, dtype):
    q, k, v = tensors(1, 2, 9, 8, dtype=dtype)
    out = attend(causal, q, k, v)
    assert out.dtype == dtype
    out.sum().backward()
    assert q.grad.dtype == dtype
    wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
    attend(causal, *wide).sum().backward()
    bound = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 3e-2)
    torch.testing.assert_close(q.grad.double(), wide[0].grad, rtol=bound, atol=bound)


def test_only_what_is_asked_is_computed(causal):
    q, k, v = tensors(1, 2, 5, 4, dtype=torch.float32, grad=False)
    assert not attend(causal, q, k, v).requires_grad
    k.requires_grad_()
    attend(causal, q, k, v).sum().backward()
    assert q.grad is None and v.grad is None and k.grad is not None
    with torch.no_grad():
        assert not attend(causal, q, k, v).requires_grad
    with torch.inference_mode():
        assert attend(causal, q, k, v).is_inference()


def test_strides(causal):
    q, k, v = (
        t.detach().transpose(1, 2).requires_grad_()
        for t in tensors(1, 9, 2, 4, dtype=torch.float32)
    )
    plain = [t.detach().contiguous().requires_grad_() for t in (q, k, v)]
    a, b = attend(causal, q, k, v), attend(causal, *plain)
    assert torch.equal(a, b)
    a.sum().backward()
    b.sum().backward()
    assert torch.equal(q.grad, plain[0].grad)


def test_gradients_are_the_same_twice(causal):
    def once():
        q, k, v = tensors(2, 2, 65, 16, dtype=torch.float32)
        attend(causal, q, k, v).square().sum().backward()
        return q.grad, k.grad, v.grad

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


def test_params_may_be_tensors():
    made = cascade.compile(spec("soft_cap"))
    q, k, v = tensors(1, 1, 4, 3)
    cap = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, c: made(Q=q, K=k.detach(), V=v.detach(), cap=c), (q, cap)
    )


def test_autocast(causal):
    q, k, v = tensors(1, 2, 5, 4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(causal, q, k, v)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert q.grad.dtype == torch.float32


def test_vmap(causal):
    q, k, v = tensors(3, 1, 2, 5, 4, grad=False)
    found = torch.func.vmap(lambda *x: attend(causal, *x))(q, k, v)
    wanted = torch.stack([attend(causal, q[n], k[n], v[n]) for n in range(3)])
    assert torch.equal(found, wanted)
    shared = torch.func.vmap(lambda x: attend(causal, x, k[0], v[0]))(q)
    assert torch.equal(shared[1], attend(causal, q[1], k[0], v[0]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_transformations_of_torch_func(causal):
    """Gradients, those of each sample and of gradients, as of the same formula in plain PyTorch."""

    def plain(Q, K, V):
        scores = Q @ K.mT * Q.shape[-1] ** -0.5
        later = torch.ones(3, 3, dtype=torch.bool).triu(1)
        return {"O": scores.masked_fill(later, -float("inf")).softmax(-1) @ V}

    q, k, v = tensors(1, 2, 3, 4, dtype=torch.float64, grad=False)
    batch = torch.randn(5, 1, 2, 3, 4, dtype=torch.float64)

    def transformed(kernel):
        def loss(q, v):
            return attend(kernel, q, k, v).sin().sum()

        f = torch.func
        yield from f.grad(loss, (0, 1))(q, v)
        yield f.vmap(f.grad(loss), (0, None))(batch, v)
        yield f.grad(lambda b: f.vmap(loss, (0, None))(b, v).square().sum())(batch)
        yield f.jacrev(lambda q: attend(kernel, q, k, v))(q)
        yield f.jacrev(f.jacrev(loss))(q, v)
        yield f.functionalize(loss)(q, v)

    for found, wanted in zip(transformed(causal), transformed(plain), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.filterwarnings("ignore")
def test_vmap_of_any_number(causal):
    """None of them has a shape, too; and a compiled function maps as another does."""
    q, k, v = tensors(1, 2, 3, 4, grad=False)

    def mapped(batch):
        return torch.func.vmap(lambda q: attend(causal, q, k, v))(batch)

    assert mapped(torch.zeros(0, *q.shape)).shape == (0, *q.shape)
    assert torch.equal(torch.compile(mapped, backend="eager")(q[None]), mapped(q[None]))


def test_mapped_tensors_have_gradients_beside_others(causal):
    k, v = tensors(1, 2, 3, 4, number=2, dtype=torch.float64)
    batch = torch.randn(5, 1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    mapped = torch.func.vmap(lambda q: attend(causal, q, k, v))(batch)
    single = torch.stack([attend(causal, q, k, v) for q in batch])
    found, wanted = (torch.autograd.grad(o.sin().sum(), (batch, k, v)) for o in (mapped, single))
    torch.testing.assert_close(found, wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_forward_mode_is_refused(causal):
    """An operator has no tangent in PyTorch, which would be taken for 0."""
    q, k, v = tensors(1, 2, 3, 4, grad=False)
    for mode in (torch.func.jacfwd, torch.func.hessian):
        with pytest.raises(cascade.InputError, match="in forward mode"):
            mode(lambda q: attend(causal, q, k, v).sum())(q)
    with torch.autograd.forward_ad.dual_level():
        assert attend(causal, q, k, v).isfinite().all()
        dual = torch.autograd.forward_ad.make_dual(q, q)
        with pytest.raises(cascade.InputError, match="in forward mode"):
            attend(causal, dual, k, v)


@pytest.mark.filterwarnings("ignore")
def test_compile(causal):
    made = torch.compile(
        lambda q, k, v: attend(causal, q, k, v) * 2, fullgraph=True, backend="aot_eager"
    )
    a, b = (tensors(1, 2, 5, 4, dtype=torch.float32) for _ in range(2))
    found, wanted = made(*a), attend(causal, *b) * 2
    assert torch.equal(found, wanted)
    found.sum().backward()
    wanted.sum().backward()
    assert torch.equal(a[0].grad, b[0].grad)


@pytest.mark.filterwarnings("ignore")
def test_export(causal):
    class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, q, k, v):
            return attend(causal, q, k, v)

    given = tuple(tensors(1, 2, 5, 4, dtype=torch.float32, grad=False))
    exported = torch.export.export(Module(), given)
    assert "cascade.run" in exported.graph_module.code
    assert torch.equal(exported.module()(*given), attend(causal, *given))


@pytest.mark.filterwarnings("ignore")
def test_the_operator_keeps_the_rules_of_pytorch():
    q, k, v = tensors(1, 2, 5, 4, dtype=torch.float32)
    options = Options(("Q", "K", "V")).text()
    torch.library.opcheck(torch.ops.cascade.run.default, ([q, k, v], str(spec("causal")), options))


def test_what_is_missing_is_named(causal):
    q, k, _ = tensors(1, 2, 5, 4)
    with pytest.raises(cascade.InputError, match=r"the input `V\[b,h,m,f\]` is missing"):
        causal(Q=q, K=k)


def test_shapes_disagree_for_tensors_as_for_arrays():
    """A traced function gives two keys one extent, which the text of the operator must keep."""

    def two(q, k1, k2, v):
        return (q @ k1.T).softmax(-1) @ v - (q @ k2.T).softmax(-1) @ v

    q, k1, v = torch.randn(6, 4), torch.randn(10, 4), torch.randn(10, 4)
    traced = cascade.trace(two, q, k1, torch.randn(10, 4), v)
    given = {"q": q, "k1": k1, "k2": torch.randn(20, 4), "v": v}
    arrays = {n: t.numpy() for n, t in given.items()}
    for call in (
        lambda: cascade.compile(traced)(**given),
        lambda: cascade.as_torch(traced)(**given),
        lambda: cascade.compile(traced)(**arrays),
        lambda: cascade.run(traced, arrays),
    ):
        with pytest.raises(cascade.InputError, match="rank `e` of `k2` has extent 20"):
            call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "`V` is given as NoneType, which is no tensor of numbers"),
        ([[1.0], [1.0, 2.0]], "`V` is given as list, which is no tensor of numbers"),
        (torch.ones(1, 2, 5, 4).to_sparse(), "`V` is sparse"),
    ],
    ids=["nothing", "ragged", "sparse"],
)
def test_inputs_are_tensors_of_numbers(causal, given, message):
    q, k, _ = tensors(1, 2, 5, 4, grad=False)
    with pytest.raises(cascade.InputError, match=message):
        causal(Q=q, K=k, V=given)


TEMPERED = """
input  Q[p,e], K[m,e]
param  tau = 1, W = 2
S[p] = sum[m](sum[e](tau * Q[p,e] * K[m,e]) where m < W)
output S
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"w": 4}, "no input, extent or param `w`(.|\n)*did you mean `W`"),
        ({"taw": torch.tensor(2.0)}, "no input, extent or param `taw`(.|\n)*did you mean `tau`"),
        ({"ZZ": 9}, "no input, extent or param `ZZ`"),
        ({"M": 9}, "rank `m` of `K` has extent 8, and 9 by the settings"),
        ({"M": torch.tensor(8)}, "`M` is an extent, and a tensor was given"),
        ({"tau": torch.ones(3)}, "`tau` is one number, and a tensor of 3 was given"),
        ({"tau": "hot"}, "`tau` is set to 'hot', which is no number"),
    ],
)
def test_wrong_settings(given, message):
    q, k = torch.randn(5, 3), torch.randn(8, 3)
    kernel = cascade.compile(cascade.parse(TEMPERED))
    with pytest.raises(cascade.InputError, match=message):
        kernel(Q=q, K=k, **given)


def test_right_settings():
    q, k = torch.randn(5, 3), torch.randn(8, 3)
    kernel = cascade.compile(cascade.parse(TEMPERED))
    assert torch.equal(kernel(Q=q, K=k, M=8, W=np.int64(2)), kernel(Q=q, K=k))
    declared = "input x[m]\nrank j < J\nz[j] = sum[m](x[m]) * j\noutput z\n"
    assert cascade.compile(cascade.parse(declared))(x=q[0], J=4).shape == (4,)


def test_an_input_may_have_the_name_of_an_extent():
    """A keyword is the input then, and sets no extent, fixed as that is."""
    text = "input E[m], x[e]\nrank e < 1\nz[m] = E[m] * x[0]\noutput z\n"
    kernel = cascade.compile(cascade.parse(text))
    given = torch.arange(3.0)
    assert torch.equal(kernel(E=given, x=torch.ones(1)), given)
    assert np.array_equal(kernel(E=given.numpy(), x=np.ones(1)), given.numpy())


def test_an_input_has_the_name_of_an_extent_that_follows_from_others():
    tiled = "input K[m]\nrank m = j*K0 + k\nparam K0 = 3\nz[j] = sum[k](K[m])\noutput z\n"
    keys, wanted = torch.arange(8.0), torch.tensor([3.0, 12.0, 13.0])
    kernel = cascade.compile(cascade.parse(tiled))
    assert torch.equal(kernel(K=keys), wanted)
    assert np.array_equal(kernel(K=keys.numpy()), wanted.numpy())


@pytest.mark.filterwarnings("ignore")
def test_wrong_settings_when_compiled(causal):
    q, k, v = tensors(1, 2, 5, 4, dtype=torch.float32, grad=False)
    made = torch.compile(
        lambda q, k, v: causal(Q=q, K=k, V=v, taw=2.0), fullgraph=True, backend="eager"
    )
    with pytest.raises(Exception, match="no input, extent or param `taw`"):
        made(q, k, v)
    sized = torch.compile(
        lambda q, k, v: attend_of_size(causal, q, k, v), fullgraph=True, backend="eager"
    )
    assert torch.equal(sized(q, k, v), attend(causal, q, k, v))


def attend_of_size(kernel, q, k, v):
    return kernel(Q=q, K=k, V=v, M=k.shape[2])["O"]


def test_no_gradient_by_an_integer():
    kernel = cascade.compile(cascade.parse(TEMPERED))
    q, k, w = torch.randn(5, 3), torch.randn(8, 3), torch.tensor(2.0, requires_grad=True)
    with pytest.raises(cascade.CascadeError, match="`W` is no real input"):
        kernel(Q=q, K=k, W=w)
    tau = torch.tensor(2.0, requires_grad=True)
    kernel(Q=q, K=k, tau=tau).sum().backward()
    assert tau.grad.isfinite()


def test_gradient_by_a_threshold_is_zero():
    text = "input x[m]\nparam t = 0.5\nz[m] = select(x[m] > t, x[m], 0)\noutput z\n"
    t = torch.tensor(0.1, requires_grad=True)
    cascade.compile(cascade.parse(text))(x=torch.randn(4), t=t).sum().backward()
    assert t.grad == 0


def test_gradient_of_a_sum_alone():
    """Its gradient has a rank that none of its inputs has."""
    x = torch.randn(4, requires_grad=True)
    cascade.compile(cascade.parse("input x[m]\nz = sum[m](x[m])\noutput z\n"))(x=x).backward()
    assert torch.equal(x.grad, torch.ones(4))


LARGEST = """cascade largest
import std
input Q[p,e], K[m,e], V[m,f]
S[p,m] = Q[p,e] * K[m,e] / sqrt(E)   where m <= p
A[p,m] = softmax[m](S[p,m])
O[p,f] = A[p,m] * V[m,f]
X[p]   = max[m](S[p,m])
output O, X
"""


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_largest_score(seed):
    """Kernels round a score in the order in which they add; its gradient has one place for all."""
    spec = cascade.parse(LARGEST)
    torch.manual_seed(seed)
    single = [torch.randn(n, 8).requires_grad_() for n in (37, 53, 53)]
    double = [t.detach().double().requires_grad_() for t in single]
    found = []
    for function, given in ((cascade.compile(spec), single), (cascade.as_torch(spec), double)):
        out = function(**dict(zip("QKV", given, strict=True)))
        loss = out["O"].square().sum() + out["X"].square().sum()
        found.append(torch.autograd.grad(loss, given))
    for actual, expected in zip(*found, strict=True):
        assert torch.allclose(actual.double(), expected, atol=1e-4)


OF_TWO_RANKS = {
    "a product of three": "S[p,m,r] = Q[p,e] * K[m,e] * W[r,e]\nX[p] = max[m,r](S[p,m,r])",
    "rows and keys": "S[p,m] = Q[p,e] * K[m,e] where m <= p\nX[m] = max[p](S[p,m])\n"
    "Y[r] = min[p,m](S[p,m] * W[r,0])",
}


@pytest.mark.parametrize("name", OF_TWO_RANKS)
def test_the_gradient_of_the_largest_along_two_ranks(name):
    outputs = "X, Y" if "Y[" in OF_TWO_RANKS[name] else "X"
    spec = cascade.parse(
        f"cascade c\ninput Q[p,e], K[m,e], W[r,e]\n{OF_TWO_RANKS[name]}\noutput {outputs}\n"
    )
    torch.manual_seed(0)
    single = [torch.randn(n).requires_grad_() for n in ((37, 24), (53, 24), (5, 24))]
    double = [t.detach().double().requires_grad_() for t in single]
    found = []
    for function, given in ((cascade.compile(spec), single), (cascade.as_torch(spec), double)):
        out = function(**dict(zip("QKW", given, strict=True)))
        parts = out.values() if isinstance(out, dict) else [out]
        found.append(torch.autograd.grad(sum(part.square().sum() for part in parts), given))
    for actual, expected in zip(*found, strict=True):
        assert expected.abs().max() > 1
        assert torch.allclose(actual.double(), expected, atol=1e-4 * expected.abs().max())


def test_the_first_call_of_a_kernel_may_be_traced():
    kernel = cascade.compile(cascade.parse("input X[m]\nY[m] = 3 * X[m] + 0.125\noutput Y\n"))
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: kernel(X=x), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(torch.ones(5)), torch.full((5,), 3.125))
