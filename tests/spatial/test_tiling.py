"""Query tiles on chip, by hand."""

from importlib.resources import files

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


def edited(tmp_path, *changes):
    """The shipped FuseMax file with some lines changed, as a user would."""
    text = (files("cascade") / "targets" / "fusemax.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_spatial(str(path))


@pytest.mark.parametrize(
    ("changes", "cycles", "chunks"),
    [
        ((), {"2d": 137, "1d": 138}, (128, 2)),
        ((("rows = 256", "rows = 128"), ("columns = 256", "columns = 128")), None, (256, 2)),
        ((("exp = 6", "exp = 4"),), {"2d": 135, "1d": 136}, (128, 2)),
        ((("on_chip = 16777216", "on_chip = 8388608"),), None, (64, 4)),
        ((("links = true", 'links = true\nfuse = ["mul_add"]'),), {"2d": 137, "1d": 73}, (128, 2)),
    ],
)
def test_changes_of_the_file(example, tmp_path, changes, cycles, chunks):
    """No number of the results is in the code: a changed file changes them as by hand."""
    settings = {"B": 1, "H": 1, "M": 64 * K, "P": 64 * K, "E": 64, "F": 64}
    found = model(example("attention_3pass"), edited(tmp_path, *changes), settings).mapping
    assert found["cycles_per_tile"] == (cycles or {"2d": 137, "1d": 138})
    assert (found["p1"], found["p2"]) == chunks


def test_a_file_with_too_small_a_buffer(example, tmp_path):
    target = edited(tmp_path, ("on_chip = 16777216", "on_chip = 131072"))
    with pytest.raises(InputError, match="the buffer of 131072 bytes does not hold one tile"):
        mapped(example, target, 64 * K)
