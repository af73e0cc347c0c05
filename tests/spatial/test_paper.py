"""The results of FuseMax, from the cascade and the target files alone."""

from statistics import mean

import pytest

from cascade import paper

SHORT = ("1K", "4K", "16K")


@pytest.fixture(scope="module")
def runs():
    return paper.results()


@pytest.fixture(scope="module")
def found(runs):
    return paper.rows_of(runs)


@pytest.fixture(scope="module")
def compared(runs, found):
    return paper.figures(found, runs)


def figure(compared, *numbers):
    found = [c for c in compared if c.figure.startswith(tuple(f"Figure {n}:" for n in numbers))]
    assert found
    return found


def test_utilisation_and_speedup(compared):
    """Every published point, to half a percent."""
    for c in figure(compared, "6a", "6b", "7", "8", "10"):
        assert abs(c.difference) <= 0.005, c


def test_every_figure_is_whole(compared):
    sizes = {n: len(figure(compared, n)) for n in ("6a", "6b", "7", "8", "9", "10", "11", "12")}
    assert sizes["6a"] == sizes["8"] == 18 * 5  # three models, six lengths, five configurations
    assert sizes["7"] == 6 * (2 + 2 + 5 + 5)
    assert sizes["12"] == 18


def test_energy_up_to_16k(compared):
    for c in figure(compared, "9", "11"):
        if c.seq_len in SHORT:
            assert abs(c.difference) <= 0.001, c


def test_energy_beyond_shows_the_published_pipeline(compared):
    """Beyond 16K the published pipeline reads whole tensors again; the difference stays bounded."""
    worst = max(abs(c.difference) for c in figure(compared, "9", "11"))
    assert 0.02 < worst < 0.075


def test_sizes_of_the_array(compared):
    for c in figure(compared, "12"):
        assert abs(c.difference) <= 0.005, c


@pytest.mark.parametrize(
    ("scope", "column", "published", "tolerance"),
    [
        ("attention", "speedup_vs_flat", 6.72, 0.005),
        ("attention", "speedup_vs_unfused", 10.05, 0.005),
        ("e2e", "speedup_vs_flat", 5.30, 0.005),
        ("e2e", "speedup_vs_unfused", 7.60, 0.005),
        ("attention", "energy_vs_flat", 0.79, 0.015),
        ("e2e", "energy_vs_flat", 0.83, 0.015),
        ("attention", "energy_vs_unfused", 0.77, 0.015),
        ("e2e", "energy_vs_unfused", 0.82, 0.015),
    ],
)
def test_averages(found, scope, column, published, tolerance):
    mine = [r[column] for r in found if r["config"] == "binding" and r["scope"] == scope]
    assert len(mine) == 24
    assert mean(mine) == pytest.approx(published, rel=tolerance)


def test_rows(found):
    """The columns that readers of `--json` rely on."""
    keys = {
        "model",
        "seq_len",
        "config",
        "scope",
        "utilisation_1d",
        "utilisation_2d",
        "latency_s",
        "traffic_bytes",
        "speedup_vs_flat",
        "speedup_vs_unfused",
        "energy_vs_flat",
        "energy_vs_unfused",
    }
    assert len(found) == 4 * 6 * 5 * 2
    assert all(keys <= set(r) for r in found)
    assert {r["config"] for r in found} == {"unfused", "flat", "cascade", "arch", "binding"}


def test_the_headline_depends_on_the_account(found):
    mine = [r for r in found if r["config"] == "binding" and r["scope"] == "attention"]
    published = mean(r["energy_vs_flat"] for r in mine)
    charged = mean(r["charged_energy_vs_flat"] for r in mine)
    assert published < 0.80
    assert charged > 0.88


def test_text(compared, found):
    text = paper.text(compared, found)
    for part in ("Figure 6a", "Figure 12", "Averages", "as published", "charged"):
        assert part in text
