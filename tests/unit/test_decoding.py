"""eFLOPs from the counts of a cascade, against the closed formulas of Kinetics (arXiv 2506.05333).

D is the width of keys and values together, over all layers; r query heads share a group of them.
The paper leaves queries and outputs out of its traffic: `small` puts back what a step moves of
them, and of lists of keys.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

import cascade
from cascade.analysis.effective import Decoding, Effort, decode, step_effort
from cascade.analysis.targets import Target, load_target
from cascade.cli import cli
from cascade.diagnostics import InputError

EXAMPLES = Path(__file__).parents[2] / "examples"
ZOO = EXAMPLES / "zoo"
LAYERS, G, R, E = 36, 8, 4, 128  # Qwen3-8B
PARAMETERS = 8.19e9
D = LAYERS * G * 2 * E


@pytest.fixture(scope="module")
def fp8() -> Target:
    """562.5 FLOPs for a byte, the constant of the paper: a B200 computing in 8 bits."""
    b200 = load_target("b200")
    rate = b200.rate | {"mac": 2 * b200.rate["mac"]}
    target = Target(b200.name, b200.kind, b200.bandwidth, b200.on_chip, b200.multiprocessors, rate)
    assert target.balance == 562.5
    return target


@dataclass(frozen=True)
class Closed:
    """The formulas, for a prompt and an output in tokens; the balance is the machine's."""

    prompt: int
    length: int
    balance: float
    trials: int = 1
    r: int = R

    def _effort(self, keys: float, moved: float, small: float) -> Effort:
        """Key-value pairs attended to by all steps, those moved, and other bytes of a step."""
        return Effort(2 * self.r * D * keys, self.balance * (2 * D * moved + small * self.length))

    def dense(self, small: float) -> Effort:
        prompt, made = self.prompt * self.length, self.length**2 / 2
        trials = self.trials
        return self._effort(trials * (prompt + made), prompt + trials * made, small)

    def sparse(self, budget: int, small: float) -> Effort:
        keys = self.trials * budget * self.length
        return self._effort(keys, keys, small)

    def blocks(self, budget: int, block: int, small: float) -> Effort:
        """A search over a vector of each block: half of D, for keys only."""
        seen = (2 * self.prompt + self.length) * self.length / block
        search = Effort(self.r * D / 2 * seen, self.balance * D / 2 * seen)
        return self.sparse(budget, small) + search


def attention(path: Path, target: Target, run: Decoding, **settings: int) -> Effort:
    report = cascade.analyse(cascade.load(path))
    return decode(report, target, settings, run).points[-1].attention


def same(found: Effort, wanted: Effort) -> None:
    assert found.compute == pytest.approx(wanted.compute, rel=1e-12)
    assert found.memory == pytest.approx(wanted.memory, rel=1e-12)


def rows(trials: int = 1, r: int = R) -> float:
    """Bytes of the queries and outputs of a step, in 16 bits."""
    return 2 * trials * r * D


@pytest.mark.parametrize("trials", [1, 16])
def test_dense_with_a_shared_prompt(fp8, trials):
    run = Decoding("M", 0, 32768, PARAMETERS, LAYERS, trials)
    sizes = {"B": trials, "G": G, "R": R, "E": E, "F": E, "N": 4096}
    closed = Closed(4096, 32768, fp8.balance, trials)
    same(attention(ZOO / "shared_prompt.cascade", fp8, run, **sizes), closed.dense(rows(trials)))


def test_dense_with_one_trial(fp8):
    run = Decoding("M", 1024, 1024 + 16384, PARAMETERS, LAYERS)
    sizes = {"B": 1, "H": G * R, "G": G, "P": 1, "E": E, "F": E}
    closed = Closed(1024, 16384, fp8.balance)
    same(attention(EXAMPLES / "grouped_query.cascade", fp8, run, **sizes), closed.dense(rows()))


def test_a_budget_of_keys(fp8):
    run = Decoding("M", 1024, 1024 + 8192, PARAMETERS, LAYERS)
    sizes = {"B": 1, "H": G, "J": 512, "E": E, "F": E}
    closed = Closed(1024, 8192, fp8.balance, r=1)
    lists = 4 * LAYERS * G * 512
    found = attention(ZOO / "tidal_attend.cascade", fp8, run, **sizes)
    same(found, closed.sparse(512, rows(r=1) + lists))


def test_a_short_context_moves_less_than_the_budget(fp8):
    """The two sparse formulas of the paper's code differ in the sign of this term: it is minus."""
    run = Decoding("M", 0, 8192, PARAMETERS, LAYERS)
    sizes = {"B": 1, "H": G, "J": 512, "E": E, "F": E}
    found = attention(ZOO / "tidal_attend.cascade", fp8, run, **sizes)
    full = Closed(0, 8192, fp8.balance, r=1).sparse(512, rows(r=1) + 4 * LAYERS * G * 512)
    saved = fp8.balance * 2 * D * 0.5 * 512**2
    assert found.memory == pytest.approx(full.memory - saved, rel=1e-12)


def test_blocks_by_a_vector_each(fp8):
    run = Decoding("M", 2048, 2048 + 32768, PARAMETERS, LAYERS)
    sizes = {"B": 1, "G": G, "R": R, "E": E, "F": E, "J": 32, "L": 16}
    closed = Closed(2048, 32768, fp8.balance).blocks(32 * 16, 16, rows())
    same(attention(ZOO / "block_topk_pages.cascade", fp8, run, **sizes), closed)


def test_attention_overtakes_the_parameters_as_the_output_grows(fp8):
    run = Decoding("M", 32, 32 + 32768, PARAMETERS, LAYERS)
    dense = cascade.analyse(cascade.load(EXAMPLES / "grouped_query.cascade"))
    sizes = {"B": 1, "H": G * R, "G": G, "P": 1, "E": E, "F": E}
    found = decode(dense, fp8, sizes, run)
    shares = [p.share for p in found.points]
    assert shares == sorted(shares) and shares[-1] > 0.98
    pair = 2 * D * (R + fp8.balance)
    length = 2 * ((2 * PARAMETERS - fp8.balance * rows()) / pair - 32)
    assert 0 < length < 1024
    assert found.overtakes == pytest.approx(length, abs=run.lengths()[0] / 32)


def test_a_budget_keeps_attention_below_the_parameters(fp8):
    run = Decoding("M", 1024, 1024 + 32768, PARAMETERS, LAYERS)
    sparse = cascade.analyse(cascade.load(ZOO / "tidal_attend.cascade"))
    found = decode(sparse, fp8, {"B": 1, "H": G, "J": 128, "E": E, "F": E}, run)
    assert found.overtakes is None
    assert found.points[0].share == pytest.approx(found.points[-1].share)


def test_a_step(fp8):
    spec = cascade.parse("cascade dot\ninput x[m], y[m]\nz = x[m] * y[m]\noutput z\n")
    found = step_effort(cascade.analyse(spec), fp8, {"M": 100})
    assert found == Effort(200, fp8.balance * (2 * 200 + 2))


def run(*words: str):
    return CliRunner().invoke(cli, ["decode", *words], catch_exceptions=False)


SPARSE = str(ZOO / "tidal_attend.cascade")
SIZES = ("--set", "B=1,H=8,J=128,E=128,F=128")


def test_command(tmp_path):
    picture = tmp_path / "a.svg"
    words = (SPARSE, "--grow", "M=1024:9216", *SIZES, "--parameters", "8e9", "--layers", "36")
    shown = run(*words, "--plot", str(picture)).output
    assert "281.25 FLOPs" in shown and "8,192" in shown and "stays below" in shown
    assert "<svg" in picture.read_text()
    (row,) = json.loads(run(*words, "--json").output)
    assert row["balance"] == 281.25 and [p["tokens"] for p in row["points"]][-1] == 8192


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--grow", "M=9:3"), "does not grow"),
        (("--grow", "M"), "is no growth"),
        (("--grow", "P=1:9"), "has no extent `P`"),
        (("--grow", "M=1:9", "--set", "Z=3"), "`Z`"),
        (("--grow", "M=1:9", "--plot", "a.pdf"), "neither an .svg"),
        (("--grow", "M=1:9", "--target", "h300"), "no target"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        run(SPARSE, *SIZES, *words)
