"""Plots as SVG that takes its colours and its typeface from the page around it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float | None]]
"""(step, value); a value that was not finite is None and leaves a gap."""

# Matplotlib wants colours in figures, the page has them in variables: these stand in for those.
_COLOURS = {
    "#010101": "var(--muted)",
    "#010102": "var(--rule)",
    "#010103": "var(--train)",
    "#010104": "var(--valid)",
    "#010105": "var(--paper)",
}
_MUTED, _RULE, _TRAIN, _VALID, _PAPER = _COLOURS
_WIDTH, _HEIGHT = 3.3, 1.75
_MOST_POINTS = 400


def curve(
    name: str, train: Points, validation: Points = (), *, best: float | None = None, last: float = 0
) -> str:
    """A metric over the steps: as logged (faint), its moving mean, and validation with the best.

    `best` is the step to mark, `last` the one at the right end.

    Spikes may leave the frame: it is fitted to what is usual, so that one spike flattens nothing.
    """
    steps, values = _thin(*_arrays(train))
    held_steps, held = _arrays(validation)

    def draw(axes: Axes) -> None:
        if len(values):
            mean = _moving_mean(values)
            axes.plot(steps, values, color=_TRAIN, linewidth=0.7, alpha=0.35)
            axes.plot(steps, mean, color=_TRAIN, linewidth=1.4)
        if len(held):
            axes.plot(held_steps, held, color=_VALID, linewidth=1.1, marker="o", markersize=2.2)
        if best is not None and best in held_steps:
            at = held[list(held_steps).index(best)]
            ring: Any = {"markeredgecolor": _VALID, "markerfacecolor": _PAPER}
            axes.plot([best], [at], "o", markersize=6.5, markeredgewidth=1.4, zorder=5, **ring)
        if last > 0:
            axes.set_xlim(-0.015 * last, 1.015 * last)
        axes.set_ylim(*_limits(values, held))
        axes.xaxis.set_major_formatter(_short)

    return _svg(name, draw)


def histogram(name: str, counts: Mapping[int, float]) -> str:
    """Bars over whole numbers, such as the lengths of sentences."""

    def draw(axes: Axes) -> None:
        axes.bar(list(counts), list(counts.values()), width=0.8, color=_TRAIN, alpha=0.8)
        axes.yaxis.set_major_formatter(_short)

    return _svg(name, draw)


def _svg(name: str, draw: Any) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Text stays text; identifiers follow from the name, so that the same run gives the same file.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 7.5}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_RULE)
        axes.grid(axis="y", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=_MUTED, pad=4)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.01)
        draw(axes)
        out = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _page_svg(out.getvalue(), name)


def _page_svg(text: str, name: str) -> str:
    """The <svg> element alone, sized and coloured by the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height|version|xmlns(:xlink)?)="[^"]*"', "", text, count=5)
    text = re.sub(r"(font: [\d.]+px) [^;\"]+", r"\1 sans-serif", text)
    for stand_in, colour in _COLOURS.items():
        text = text.replace(stand_in, colour)
    label = re.sub(r"[^\w .-]", " ", name)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def _arrays(points: Points) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array([step for step, _ in points], dtype=float)
    values = np.array([math.nan if v is None else v for _, v in points], dtype=float)
    return steps, values


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of equal runs of points, so that a long run does not make a large file."""
    share = -(-len(values) // _MOST_POINTS)
    if share <= 1:
        return steps, values
    groups = np.arange(len(values)) // share
    finite = np.isfinite(values)
    count = np.bincount(groups, finite)
    total = np.bincount(groups, np.where(finite, values, 0.0))
    mean = np.divide(total, count, out=np.full(len(count), math.nan), where=count > 0)
    return np.bincount(groups, steps) / np.bincount(groups), mean


def _moving_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a window of a twentieth of the curve; gaps stay gaps."""
    half = len(values) // 40
    if half == 0:
        return values
    finite = np.isfinite(values)
    window = np.ones(2 * half + 1)
    # Padded by hand: a window longer than the curve would otherwise lengthen it.
    total = np.convolve(np.pad(np.where(finite, values, 0.0), half), window, "valid")
    count = np.convolve(np.pad(finite.astype(float), half), window, "valid")
    return np.where(finite, total / np.maximum(count, 1.0), math.nan)


def _limits(values: np.ndarray, held: np.ndarray) -> tuple[float, float]:
    """The range of the curve without its rarest values, and of all validation values."""
    values, held = values[np.isfinite(values)], held[np.isfinite(held)]
    if len(values) >= 50:
        values = np.percentile(values, [0.5, 99.0])
    both = np.concatenate([values, held])
    if not len(both):
        return 0.0, 1.0
    low, high = float(both.min()), float(both.max())
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def _short(value: float, position: float) -> str:
    """A count on an axis: 2k, 1.5M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
