"""Line charts as inline SVG: axes with round numbers, a band of raw values behind a smooth line.

Made here rather than by a plotting library because a report is one small file that opens anywhere;
the same page with plotly inside weighs 4 MB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 640, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 30
MOST_POINTS = 500  # a series of more is thinned, its extremes kept


@dataclass(frozen=True)
class Series:
    """Values over steps; ones that are not finite leave a gap."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    smooth: bool = False  # draw a running mean over the raw values


@dataclass(frozen=True)
class Chart:
    """One plot: its series share the axes. `marks` are steps that get a dashed line (a resume)."""

    title: str
    series: Sequence[Series]
    marks: Sequence[int] = field(default=())

    def svg(self) -> str:
        """The plot as an `<svg>`; colours are the page's CSS variables `--series-1` … `--series-4`."""
        drawn = [thin(series) for series in self.series]
        x0, x1, y0, y1 = self._range(drawn)
        ticks = round_ticks(y0, y1)
        y0, y1 = min(y0, ticks[0]), max(y1, ticks[-1])

        def x(step: float) -> float:
            return LEFT + (step - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

        def y(value: float) -> float:
            return TOP + (y1 - value) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

        head = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}"'
        parts = [f'<svg class="chart" {head}>']
        for tick in ticks:
            at = y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(text(LEFT - 8, at + 4, "end", label(tick)))
        for tick in round_ticks(x0, x1, 6):
            if x0 <= tick <= x1:
                parts.append(text(x(tick), HEIGHT - 8, "middle", label(tick)))
        for step in self.marks:
            parts.append(
                f'<line class="mark" x1="{x(step):.1f}" x2="{x(step):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
                f"<title>resumed at step {step}</title></line>"
            )
        for number, series in enumerate(drawn):
            colour = f"var(--series-{number % 4 + 1})"
            points = [(x(s), y(v)) for s, v in zip(series.steps, series.values, strict=True)]
            if series.smooth and len(points) > 20:
                parts.append(path(points, f'class="raw" stroke="{colour}"'))
                smoothed = running_mean(series.values)
                points = [(x(s), y(v)) for s, v in zip(series.steps, smoothed, strict=True)]
            parts.append(path(points, f'class="line" stroke="{colour}"'))
        parts.append(f'<line class="cross" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg>')
        return "".join(parts)

    def points(self) -> dict[str, object]:
        """What the page's script needs to name the values under the pointer."""
        drawn = [thin(series) for series in self.series]
        x0, x1, _, _ = self._range(drawn)
        return {
            "x": [LEFT, WIDTH - RIGHT, x0, x1],
            "series": [
                {
                    "name": series.name,
                    "steps": list(series.steps),
                    "values": [float(f"{v:.5g}") if math.isfinite(v) else None for v in series.values],
                }
                for series in drawn
            ],
        }

    def _range(self, drawn: Sequence[Series]) -> tuple[float, float, float, float]:
        steps = [step for series in drawn for step in series.steps] or [0]
        values = sorted(v for series in drawn for v in series.values if math.isfinite(v)) or [0.0]
        low, high = values[0], values[-1]
        # A first step's spike must not flatten the rest: the top 1 % may leave the picture.
        cut = values[min(len(values) - 1, int(len(values) * 0.99))]
        if high > 3 * max(abs(cut), 1e-12) and len(values) > 50:
            high = cut
        if high - low < 1e-9 * max(abs(high), 1e-9):
            low, high = low - max(abs(low), 1) * 0.05, high + max(abs(high), 1) * 0.05
        return min(steps), max(max(steps), min(steps) + 1), low, high


def text(x: float, y: float, anchor: str, words: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def path(points: Sequence[tuple[float, float]], attributes: str) -> str:
    """A polyline that stops and starts again at values that are not finite."""
    words: list[str] = []
    down = False
    for px, py in points:
        if not math.isfinite(py):
            down = False
            continue
        words.append(f"{'L' if down else 'M'}{px:.1f} {min(max(py, TOP - 2), HEIGHT):.1f}")
        down = True
    if len(words) == 1:  # a single point has no length: give it a round dot
        words.append("h0")
    return f'<path {attributes} d="{"".join(words)}"/>' if words else ""


def thin(series: Series, most: int = MOST_POINTS) -> Series:
    """At most about `most` points, keeping each stretch's lowest and highest."""
    count = len(series.steps)
    if count <= most:
        return series
    keep: set[int] = {0, count - 1}
    stretch = count / (most / 2)
    for number in range(most // 2):
        places = range(int(number * stretch), max(int((number + 1) * stretch), int(number * stretch) + 1))
        finite = [place for place in places if place < count and math.isfinite(series.values[place])]
        if finite:
            keep.add(min(finite, key=lambda place: series.values[place]))
            keep.add(max(finite, key=lambda place: series.values[place]))
    order = sorted(keep)
    return Series(
        series.name, [series.steps[i] for i in order], [series.values[i] for i in order], series.smooth
    )


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a window centred on each point (no lag where the values fall fast), about a
    thirtieth of the points wide; values that are not finite do not count."""
    reach = max(len(values) // 60, 1)
    sums, counts = [0.0], [0]
    for value in values:
        finite = math.isfinite(value)
        sums.append(sums[-1] + (value if finite else 0.0))
        counts.append(counts[-1] + finite)
    smoothed = []
    for place in range(len(values)):
        span = min(reach, place, len(values) - 1 - place)  # symmetric at the ends too
        first, last = place - span, place + span + 1
        count = counts[last] - counts[first]
        smoothed.append((sums[last] - sums[first]) / count if count else math.nan)
    return smoothed


def round_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 × 10ⁿ that cover [low, high]."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def label(value: float) -> str:
    """A tick in few characters."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if 0 < size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:g}"
