"""A small SVG writer for charts: grouped bars, stacked bars, and lines over a linear or logarithmic axis.

Coordinates are pixels, y downwards, as in SVG. Colours keep their difference for colour-blind readers."""

import html
import math

COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#999999", "#b8a800", "#444444"]
WIDTH, HEIGHT = 820, 440
LEFT, RIGHT, TOP, BOTTOM = 74, 20, 54, 104


class Canvas:
    def __init__(self, title, subtitle="", width=WIDTH, height=HEIGHT):
        self.width, self.height, self.parts = width, height, []
        self.text(LEFT, 24, title, size=16, weight="bold")
        if subtitle:
            self.text(LEFT, 42, subtitle, size=11, fill="#555")

    def text(self, x, y, words, size=12, anchor="start", fill="#222", weight="normal", rotate=0):
        turn = f' transform="rotate({rotate} {x:.1f} {y:.1f})"' if rotate else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" '
                          f'font-weight="{weight}"{turn}>{html.escape(str(words))}</text>')

    def line(self, x1, y1, x2, y2, stroke="#ddd", width=1, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
                          f'stroke-width="{width}"{dashes}/>')

    def rectangle(self, x, y, width, height, fill, title=""):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
                          f'fill="{fill}"><title>{html.escape(title)}</title></rect>')

    def polyline(self, points, stroke, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="2"{dashes}/>')

    def dot(self, x, y, fill, title=""):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{fill}"><title>{html.escape(title)}</title>'
                          "</circle>")

    def write(self, path, footer=""):
        if footer:
            self.text(LEFT, self.height - 8, footer, size=8, fill="#888")
        path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                        f'width="{self.width}" height="{self.height}" font-family="sans-serif">\n'
                        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def brief(value):
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    if value >= 1e3:
        return f"{value / 1e3:g} k"
    return f"{value:.3g}"


def ticks(top):
    """Round steps from 0 to at least `top`."""
    raw = top / 5
    scale = 10 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999)
    return [step * i for i in range(int(math.ceil(top / step - 1e-9)) + 1)]


class Scale:
    """From values to pixels; logarithmic scales start at their smallest value."""

    def __init__(self, low, high, start, end, log=False):
        self.log, self.start, self.end = log, start, end
        self.low, self.high = (math.log10(low), math.log10(high)) if log else (low, high)
        if self.high <= self.low:
            self.high = self.low + 1

    def __call__(self, value):
        at = math.log10(max(value, 1e-12)) if self.log else value
        part = min(max((at - self.low) / (self.high - self.low), 0), 1)
        return self.start + (self.end - self.start) * part


def _value_axis(canvas, top, label, log_from=None):
    bottom = canvas.height - BOTTOM
    if log_from:
        low, high = 10 ** math.floor(math.log10(log_from)), 10 ** math.ceil(math.log10(top))
        scale = Scale(low, high, bottom, TOP, log=True)
        marks = [10 ** e for e in range(round(math.log10(low)), round(math.log10(high)) + 1)]
    else:
        marks = ticks(top)
        scale = Scale(0, marks[-1], bottom, TOP)
    for mark in marks:
        canvas.line(LEFT, scale(mark), canvas.width - RIGHT, scale(mark))
        canvas.text(LEFT - 6, scale(mark) + 4, brief(mark), size=11, anchor="end")
    canvas.text(18, (TOP + bottom) / 2, label, anchor="middle", rotate=-90)
    return scale


def _legend(canvas, names):
    x, y = LEFT, canvas.height - BOTTOM + 48
    for index, name in enumerate(names):
        needed = 26 + 6.4 * len(name)
        if x + needed > canvas.width - RIGHT and x > LEFT:
            x, y = LEFT, y + 18
        canvas.rectangle(x, y - 9, 11, 11, COLOURS[index % len(COLOURS)])
        canvas.text(x + 16, y, name, size=11)
        x += needed


def _group_label(canvas, centre, bottom, slot, name):
    """On one line where it fits, else broken at its slashes."""
    if 6.8 * len(name) <= slot:
        canvas.text(centre, bottom + 18, name, anchor="middle")
        return
    for line, part in enumerate(name.split("/")):
        canvas.text(centre, bottom + 12 + 10 * line, part, size=9, anchor="middle")


def bars(path, title, subtitle, label, groups, series, footer="", log=False):
    """`series`: [(name, [value or None per group], [(low, high) or None per group])]; one cluster of bars per group."""
    canvas = Canvas(title, subtitle)
    values = [v for _, numbers, _ in series for v in numbers if v]
    scale = _value_axis(canvas, max(values), label, min(values) if log else None)
    bottom, slot = canvas.height - BOTTOM, (canvas.width - LEFT - RIGHT) / len(groups)
    width = min(slot * 0.84 / len(series), 64)
    for g, group in enumerate(groups):
        centre = LEFT + slot * (g + 0.5)
        _group_label(canvas, centre, bottom, slot, group)
        for s, (name, numbers, spreads) in enumerate(series):
            if numbers[g] is None:
                continue
            x = centre + width * (s - len(series) / 2)
            canvas.rectangle(x, scale(numbers[g]), width - 2, bottom - scale(numbers[g]), COLOURS[s % len(COLOURS)],
                             f"{name}, {group}: {brief(numbers[g])} {label}")
            canvas.text(x + width / 2 - 1, scale(numbers[g]) - 4, brief(numbers[g]), size=9, anchor="middle")
            if spreads and spreads[g]:
                low, high = spreads[g]
                middle = x + width / 2 - 1
                canvas.line(middle, scale(low), middle, scale(high), stroke="#222", width=1.5)
    canvas.line(LEFT, bottom, canvas.width - RIGHT, bottom, stroke="#222")
    _legend(canvas, [name for name, _, _ in series])
    canvas.write(path, footer)


def stacked(path, title, subtitle, label, groups, names, columns, footer=""):
    """`columns`: per group {name: value}; one bar per group, made of the names in order."""
    canvas = Canvas(title, subtitle)
    scale = _value_axis(canvas, max(sum(column.values()) for column in columns), label)
    bottom, slot = canvas.height - BOTTOM, (canvas.width - LEFT - RIGHT) / len(groups)
    width = min(slot * 0.6, 90)
    for g, (group, column) in enumerate(zip(groups, columns)):
        centre, total = LEFT + slot * (g + 0.5), 0
        _group_label(canvas, centre, bottom, slot, group)
        for n, name in enumerate(names):
            value = column.get(name, 0)
            if not value:
                continue
            top = scale(total + value)
            canvas.rectangle(centre - width / 2, top, width, scale(total) - top, COLOURS[n % len(COLOURS)],
                             f"{name}, {group}: {value:.0f}")
            if scale(total) - top > 13:
                canvas.text(centre, (scale(total) + top) / 2 + 4, f"{value:.0f}", size=10, anchor="middle",
                            fill="white")
            total += value
        canvas.text(centre, scale(total) - 4, f"{total:.0f}", size=10, anchor="middle")
    canvas.line(LEFT, bottom, canvas.width - RIGHT, bottom, stroke="#222")
    _legend(canvas, names)
    canvas.write(path, footer)


def lines(path, title, subtitle, x_label, y_label, series, footer="", log_x=False, y_top=None):
    """`series`: [(name, [(x, y), ...], dashed)]."""
    canvas = Canvas(title, subtitle)
    xs = sorted({x for _, points, _ in series for x, _ in points})
    y_scale = _value_axis(canvas, y_top or max(y for _, points, _ in series for _, y in points), y_label)
    bottom = canvas.height - BOTTOM
    x_scale = Scale(xs[0], xs[-1], LEFT + 10, canvas.width - RIGHT - 10, log_x)
    marks = xs
    if len(xs) > 12:
        marks = [m for m in (m * 10 ** e for e in range(-1, 9) for m in (1, 2, 5)) if xs[0] <= m <= xs[-1]]
    last = -100
    for mark in marks:
        if x_scale(mark) - last < 34:
            continue
        last = x_scale(mark)
        canvas.line(last, bottom, last, bottom + 4, stroke="#222")
        canvas.text(last, bottom + 18, brief(mark), anchor="middle", size=11)
    canvas.text((LEFT + canvas.width - RIGHT) / 2, bottom + 33, x_label, anchor="middle", size=11)
    for s, (name, points, dashed) in enumerate(series):
        colour = COLOURS[s % len(COLOURS)]
        placed = [(x_scale(x), y_scale(y)) for x, y in sorted(points)]
        canvas.polyline(placed, colour, "6 4" if dashed else "")
        if len(points) <= 12:
            for (px, py), (x, y) in zip(placed, sorted(points)):
                canvas.dot(px, py, colour, f"{name}, {brief(x)}: {brief(y)} {y_label}")
    canvas.line(LEFT, bottom, canvas.width - RIGHT, bottom, stroke="#222")
    _legend(canvas, [name for name, _, _ in series])
    canvas.write(path, footer)
