"""Files of arrays: what is written reads back, whatever the names and types."""

import json
import struct

import numpy as np
import pytest

from cascade.diagnostics import InputError
from cascade.files import read_arrays, write_arrays

NAMES = ("file", "allow_pickle", "args", "O")


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_outputs_read_back_under_any_name(suffix, tmp_path):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    path = str(tmp_path / f"out.{suffix}")
    arrays = {name: np.full((2, n), n) for n, name in enumerate(NAMES)}
    write_arrays(path, arrays)
    found = read_arrays((path,))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def safetensors(path, dtype, data, shape):
    head = {"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return read_arrays((str(path),))["x"]


@pytest.mark.parametrize(
    ("dtype", "data", "values"),
    [
        ("BF16", np.array([0x3F80, 0xC040, 0x7F80], "<u2").tobytes(), [1, -3, np.inf]),
        ("F8_E4M3", bytes([0x38, 0xC4, 0x7E, 0x01, 0x80, 0x7F]), [1, -3, 448, 2**-9, 0, np.nan]),
        ("F8_E5M2", bytes([0x3C, 0xC2, 0x7B, 0x01, 0x7C]), [1, -3, 57344, 2**-16, np.inf]),
        ("F16", np.array([1, -3], "<f2").tobytes(), [1, -3]),
        ("I16", np.array([1, -3], "<i2").tobytes(), [1, -3]),
        ("BOOL", bytes([1, 0]), [True, False]),
    ],
)
def test_types_of_safetensors(dtype, data, values, tmp_path):
    pytest.importorskip("safetensors")
    found = safetensors(tmp_path / "x.safetensors", dtype, data, [len(values)])
    np.testing.assert_array_equal(found, values)


def test_an_unknown_type_of_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(InputError):
        safetensors(tmp_path / "x.safetensors", "F8_E8M0", bytes(2), [2])
