"""Query tiles on chip, by hand."""

import pytest

from cascade.diagnostics import InputError
from cascade.spatial.model import model
from cascade.spatial.target import load_spatial
from cascade.spatial.tiling import choose_chunks

K, MIB = 1024, 2**20
FUSEMAX = load_spatial("fusemax")


def mapped(example, target, length, width=64):
    settings = {"B": 2, "H": 3, "M": length, "P": length, "E": width, "F": width}
    found = model(example("attention_3pass"), target, settings).mapping
    return found["p1"], found["p2"]


@pytest.mark.parametrize(
    ("length", "width", "expected"),
    [
        (K, 64, (4, 1)),
        (4 * K, 64, (16, 1)),
        (16 * K, 64, (64, 1)),
        (64 * K, 64, (128, 2)),
        (256 * K, 64, (128, 8)),
        (MIB, 64, (128, 32)),
        (3 * K, 64, (12, 1)),
        (96 * K, 64, (192, 2)),
        (64 * K, 128, (64, 4)),
        (MIB, 128, (64, 64)),
    ],
)
def test_published_chunks(example, length, width, expected):
    """16 MiB less a tile of keys and of values, by 2(E+F+2) bytes a query; the largest divisor."""
    assert mapped(example, FUSEMAX, length, width) == expected


@pytest.mark.parametrize(
    ("size", "length", "expected"),
    [
        (8 * MIB, 64 * K, (64, 4)),
        (8 * MIB, 256 * K, (64, 16)),
        (8 * MIB, MIB, (64, 64)),
        (MIB, 4 * K, (8, 2)),
    ],
)
def test_other_buffers(example, size, length, expected):
    assert mapped(example, FUSEMAX.with_buffer(size), length) == expected


def test_another_array(example):
    assert mapped(example, FUSEMAX.resized(128, 128), 64 * K) == (256, 2)


@pytest.mark.parametrize(
    ("length", "expected"), [(K, (4, 1)), (16 * K, (32, 2)), (64 * K, (32, 8)), (MIB, (32, 128))]
)
def test_values_that_pass_through_the_buffer_take_room(example, length, expected):
    assert mapped(example, load_spatial("fusemax_cascade"), length) == expected


def test_a_buffer_smaller_than_a_tile(example):
    with pytest.raises(InputError, match="does not hold one tile"):
        mapped(example, FUSEMAX.with_buffer(128 * K), 64 * K)


def test_ragged_chunks():
    """A prime number of tiles has no divisor: with `ragged` the last chunk is smaller."""
    assert choose_chunks(13, 1000, 10, 10, 0, ragged=False).inner == 1
    ragged = choose_chunks(13, 1000, 10, 10, 0, ragged=True)
    assert (ragged.inner, ragged.outer) == (10, 2)
