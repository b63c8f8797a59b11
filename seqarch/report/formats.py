"""The formats of values; a number becomes a string only here."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from seqarch.records import Record
from seqarch.stats.fit_rate import FitRate
from seqarch.stats.learning_rates import Window

MISSING = "\N{EN DASH}"
LESS, MORE = "\N{LESS-THAN OR EQUAL TO} ", "\N{GREATER-THAN OR EQUAL TO} "
NEARLY_ALL = 0.9995  # above it one digit would say 100 %
NOISY = 0.1  # spread over repetitions, as a share of the median, above which a speed is marked


class Repeated(NamedTuple):
    """A speed that was measured several times.

    Attributes:
      median: of the repetitions.
      spread: half their range, as a share of the median.
    """

    median: float
    spread: float


def format_bytes(value: float) -> str:
    """Returns 1536 as "1.5 KiB"."""
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def needed(size: float, memory: float) -> str:
    """Returns "1.2 GiB" of a size that fits a memory, and else "needs 136 GiB of 15.8 GiB"."""
    shown = format_bytes(size)
    return shown if size <= memory else f"needs {shown} of {format_bytes(memory)}"


def format_found(record: Record) -> str:
    """Returns the size that a search found: "1,024", or "at least 1,024" if it ended there."""
    return f"{'at least ' if record.status == 'over' else ''}{record.value:,}"


def format_si(value: float) -> str:
    """Returns 1530000 as "1.53 M"."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def format_exponent(fit: Sequence[float]) -> str:
    """Returns (1.0, 0.02), an exponent and half the width of its interval, as "1.00 ± 0.02"."""
    b, half = fit
    shown = abs(b) if abs(b) < 0.005 else b  # never "-0.00"
    return f"{shown:.2f} ± {half:.2f}"


def format_percent(share: float) -> str:
    """Returns 0.5 as "50.0%"; what is near none or all has the digits that tell it from them."""
    if 0 < abs(share) < 0.01:
        return f"{100 * share:.2g}%"
    digits = -math.floor(math.log10(100 * (1 - share))) if NEARLY_ALL < share < 1 else 1
    return f"{100 * share:.{digits}f}%"


def format_fit_rate(rate: FitRate) -> str:
    """Returns 4 of 10 runs as "0.40 [0.17, 0.69]", with the interval of the rate."""
    return f"{rate.rate:.2f} [{rate.low:.2f}, {rate.high:.2f}]"


def format_rate(speed: float | Repeated) -> str:
    """Returns 28357.6 as "28,400", and of repetitions "28,400 ± 4 %"; a large spread is marked."""
    if isinstance(speed, Repeated):
        mark = " (noisy)" if speed.spread > NOISY else ""
        return f"{format_rate(speed.median)} ± {100 * speed.spread:.0f} %{mark}"
    rounded = float(f"{speed:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:.3g}"


def format_duration(seconds: float) -> str:
    """Returns 0.0761 as "76.1 ms"."""
    scaled = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
    size, unit = next((each for each in scaled if seconds >= each[0]), (1e-9, "ns"))
    return f"{float(f'{seconds / size:.3g}'):,g} {unit}"


def window_cells(window: Window | None) -> tuple[str, str, str]:
    """Returns the ends of a window and its width in octaves, as text.

    Those that the grid cuts off have a sign.
    """
    if window is None:
        return "none", "none", "none"
    low, high = LESS * window.censored_low, MORE * window.censored_high
    wider = MORE * (window.censored_low or window.censored_high)
    return f"{low}{window.low:g}", f"{high}{window.high:g}", f"{wider}{window.octaves:.1f}"


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    number = f"{value:.0f}" if value >= 100 or power == 0 else f"{value:.3g}"
    return f"{number} {units[power]}".strip()


def _revision(text: str) -> str:
    commit, space, rest = text.partition(" ")
    return commit[:10] + space + rest


FORMATS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "code": str,
    "size": str,  # a number that is formatted already, with its unit
    "revision": _revision,
    "bits": "{:.3f}".format,
    "ratio": "{:.2f}".format,
    "percent": format_percent,
    "count": "{:,}".format,
    "number": "{:,.0f}".format,
    "rate": format_rate,
    "price": "{:.3g}".format,
    "seconds": "{:.3g} s".format,
    "ms": "{:.3g}".format,  # milliseconds, as the column's title says
    "duration": format_duration,
    "flops": format_si,
    "bytes": format_bytes,
    "exponent": format_exponent,
    "fit_rate": format_fit_rate,
}
AXES = {  # titles of axes, by unit
    "bits": "bits per byte",
    "bytes": "bytes",
    "rate": "tokens per second",
    "seconds": "seconds",
    "duration": "seconds",
    "flops": "FLOPs",
}
BOUNDS = {"percent": (0.0, 1.0)}  # of what is drawn, by unit; others are at least 0
TEXTS = ("text", "code", "revision")  # units that are aligned to the left


def show(value: Any, unit: str) -> str:
    """Returns a value in the format of its unit; an en dash where it is missing."""
    return MISSING if value is None or value == "" else FORMATS[unit](value)
