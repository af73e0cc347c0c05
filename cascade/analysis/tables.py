"""Plain-text tables and quantities for reports."""

from __future__ import annotations

from cascade.analysis.counts import Count


def table(header: list[str], rows: list[list[str]], indent: str = "  ") -> str:
    """Left-aligned columns; columns without a value vanish."""
    keep = [n for n in range(len(header)) if any(row[n] for row in rows)]
    lines = [header, *rows]
    widths = {n: max(len(line[n]) for line in lines) for n in keep}
    return "\n".join(
        (indent + "  ".join(line[n].ljust(widths[n]) for n in keep)).rstrip() for line in lines
    )


def quantity(count: Count, value: int | None, bytes_each: int) -> str:
    """`M` or, with numbers, `M = 488 B`."""
    return str(count) if value is None else f"{count} = {size(value * bytes_each)}"


def size(amount: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.4g} {unit}"


def seconds(value: float) -> str:
    """A time in the unit that reads best."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def scaled(value: float) -> str:
    """A large number with a letter for its thousands: `1.25 T`."""
    for letter, scale in (
        ("E", 1e18),
        ("P", 1e15),
        ("T", 1e12),
        ("G", 1e9),
        ("M", 1e6),
        ("k", 1e3),
    ):
        if value >= scale:
            return f"{value / scale:.3g} {letter}"
    return f"{value:.3g}"
