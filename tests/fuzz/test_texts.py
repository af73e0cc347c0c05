"""Every text parses or fails with a message, fast and in little memory (in a subprocess)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import cascade
from cascade.diagnostics import CascadeError
from tests.fuzz.texts import seeds, texts

MEGABYTES = 512
ATTACK = Path(__file__).with_name("attack.py")


def attack(number, seed):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ATTACK), str(number), str(seed)],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("number", "seed"), [(500, 1), pytest.param(20_000, 2, marks=pytest.mark.slow)]
)
def test_random_texts(number, seed):
    result = attack(number, seed)
    first = [f"{f['problem']}\n{f['text'][:2000]!r}" for f in result["failures"][:3]]
    assert not first, "\n\n".join(first)
    assert result["read"] == number
    assert result["memory"] < MEGABYTES * 2**20


def test_the_texts_get_past_the_syntax():
    accepted, codes = 0, set()
    for text in texts(1200, 3):
        try:
            cascade.parse(text)
            accepted += 1
        except CascadeError as error:
            codes |= {d.code for d in error.diagnostics}
    assert accepted > 5
    assert len(codes) > 8


def test_every_seed_is_a_cascade_unless_it_shows_a_mistake():
    texts = seeds()
    accepted = 0
    for text in texts:
        try:
            accepted += bool(cascade.parse(text).outputs)
        except CascadeError:
            pass
    assert accepted > 80  # the rest are the specs that show mistakes
