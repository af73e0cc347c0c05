"""Remedies look through producers without writing them out."""

import cascade
from cascade.analysis.report import analyse


def test_a_deep_network_is_looked_through_once(monkeypatch):
    from cascade.analysis import whynot

    looked: list[str] = []
    found = whynot._Uses._producer

    def counted(self, tensor, depth):
        looked.append(tensor)
        return found(self, tensor, depth)

    monkeypatch.setattr(whynot._Uses, "_producer", counted)
    lines = ["import std", "input x[t,d], w[d]", "h0[t,d] = x[t,d]"]
    lines += [f"h{n + 1}[t,d] = h{n}[t,d] + w[d] * rmsnorm[d](h{n}[t,d], 1e-6)" for n in range(12)]
    spec = cascade.parse("\n".join([*lines, "output h12", ""]))
    report = analyse(spec, {}, {}, None)
    assert report.passes.of_rank()["d"] == 13
    assert report.barriers
    assert len(looked) < 100 * len(report.barriers)  # written out: thousands for each
