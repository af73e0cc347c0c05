"""Integers in kernels: exact in 64 bits, as in the reference."""

import numpy as np
import pytest

import cascade

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton.launch import TritonKernel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ENDS = np.array([2**31, -(2**40) - 1, 3])
NARROW = np.array([-(2**31), 2**31 - 1], np.int32)
BIG = np.full((3, 40), 5001)
ONES = np.ones((3, 4), np.float32)
CASES = {
    "d[m] = 2**n[m]": {"n": np.array([3, -2, 0])},
    "d[m] = n[m]**(-1)": {"n": np.array([3, -2, 1])},
    "d[m] = n[m]**m": {"n": np.array([3, -2, 5])},
    "d[m] = n[m]**5": {"n": np.array([3, -2, 1001])},
    "d[m] = n[m]**2": {"n": np.array([3, -2, 100001])},
    "O[p,f] = a[p,k] * b[k,f]": {"a": BIG, "b": BIG.T},
    "s = sum[k](-a[k] * a[k])": {"a": np.array([16777217, 5])},
    "s = sum[m](n[m])": {"n": ENDS},
    "s = max[m](n[m])": {"n": ENDS - 2**40},
    "s = prod[m](n[m])": {"n": ENDS[:1].repeat(2) // 4},
    "d[m] = n[m] * 2": {"n": ENDS},
    "d[m] = n[m] // 7 + n[m] % 7 + sign(n[m]) + abs(n[m])": {"n": ENDS},
    "d[m] = -n[m] * n[m] + m": {"n": NARROW},
    "d[m] = max(n[m], 5000000000) - min(n[m], m)": {"n": NARROW},
    "d[m] = m * 4294967296 + n[m] % 4294967296": {"n": ENDS},
    "d[m] = floor(x[m])": {"x": np.array([3e9, -3e9, 2.5], np.float32)},
    "O[p] = sum[m](V[m] where n[m] == q[p])": {
        "n": np.arange(6) % 3 * 2**32,
        "q": np.arange(4) % 3 * 2**32,
        "V": np.arange(6, dtype=np.float32),
    },
    "O[p] = sum[m](V[m] where m < n[p] * 2)": {"n": ENDS, "V": np.arange(40, dtype=np.float32)},
    "O[p] = sum[m](V[m] where n[m] > 3000000000)+q[p]": {
        "n": ENDS * 2,
        "V": np.arange(3, dtype=np.float32),
        "q": np.arange(2, dtype=np.float32),
    },
    "O[m,f] = V[n[m],f] ?? -1": {"n": np.array([2**32, 1, -(2**32)]), "V": ONES},
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


def text_of(statement: str, arrays: dict[str, np.ndarray]) -> str:
    lines = []
    for name, array in arrays.items():
        start = statement.index(f"{name}[", statement.index("="))
        ranks = statement[start : statement.index("]", start)].split("[")[1]
        ranks = "j,f" if name == "V" and array.ndim == 2 else ranks
        kind = {"int64": ": int", "int32": ": i32"}.get(str(array.dtype), "")
        lines.append(f"input {name}[{ranks}]{kind}")
    return "\n".join([*lines, statement, f"output {statement.split('=')[0].split('[')[0].strip()}"])


@pytest.mark.parametrize("statement", CASES)
def test_integers_are_those_of_the_reference(statement):
    arrays = CASES[statement]
    spec = cascade.parse(text_of(statement, arrays))
    expected = next(iter(cascade.run(spec, arrays).values()))
    tensors = {n: torch.tensor(a) for n, a in arrays.items()}
    with np.errstate(all="ignore"):
        made = TritonKernel(spec, {r: 16 for r in "mp" if r in spec.rank})(**tensors).numpy()
    for found in (np.asarray(cascade.compile(spec)(**arrays)), made):
        assert found.dtype.kind == np.asarray(expected).dtype.kind
        np.testing.assert_allclose(found, expected, rtol=1e-6 if found.dtype.kind == "f" else 0)


def test_a_sum_in_a_condition_is_no_factor():
    spec = cascade.parse(
        "input a[p,k]\ninput b[m,k]\ninput V[m,f]\nS[p,m] = a[p,k] * b[m,k]\n"
        "O[p,f] = sum[m](V[m,f] where S[p,m] > 3)\noutput O"
    )
    a = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    b = np.arange(20, dtype=np.float32).reshape(5, 4) - 9
    found = cascade.compile(spec)(a=a, b=b, V=np.ones((5, 2), np.float32))
    np.testing.assert_allclose(found, ((a @ b.T > 3).sum(1)[:, None] + np.zeros(2)))
