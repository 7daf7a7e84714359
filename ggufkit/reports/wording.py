"""Numbers as people read them: sizes, nats, shares of a whole."""


def size(count: float) -> str:
    """Write bytes, in powers of ten."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def short(value: float) -> str:
    """Write a figure with three digits, as axes and labels have it."""
    if value >= 1e-3 or value == 0:
        return f"{value:.3g}"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def rate(value: float) -> str:
    """Write a speed."""
    return f"{value:,.0f}/s" if value >= 100 else f"{value:.3g}/s"


def nats(value: float | None) -> str:
    """Write a divergence; nothing where there is none."""
    return "" if value is None else f"{value:.6f}" if abs(value) < 0.1 else f"{value:.4f}"


def percent(value: float | None) -> str:
    """Write a fraction of 1 with two decimals of a percent."""
    return "" if value is None else f"{value:.2%}"


def change(ratio: float | None) -> str:
    """Write by how much something grew."""
    return "" if ratio is None else f"{ratio - 1:+.2%}"
