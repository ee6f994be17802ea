"""A curve drawn with characters: a terminal has no pictures, and a pipe has no colours."""

from collections.abc import Sequence

Points = Sequence[tuple[float, float]]

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Braille: which bit is the dot in this row and column of a character (Unicode 16, table 2800)."""
EMPTY = 0x2800


class Paper:
    """Where a point of the plot comes to stand in the characters."""

    def __init__(self, line: Points, marks: Points, *, width: int, height: int, braille: bool) -> None:
        self.height, self.braille = height, braille
        self.low, self.high = _range([value for _, value in (*line, *marks)])
        self.left, self.right = line[0][0], max(line[-1][0], line[0][0] + 1)
        labels = [_label(self.high - (self.high - self.low) * row / max(1, height - 1)) for row in range(height)]
        self.margin = max(map(len, labels)) + 2
        self.columns = max(10, width - self.margin)
        shown = {0, height // 2, height - 1}
        tick = "┤" if braille else "|"
        self.axis = [f"{label if row in shown else '':>{self.margin - 2}} {tick}" for row, label in enumerate(labels)]

    def place(self, point: tuple[float, float], across: int, down: int) -> tuple[int, int]:
        x = (point[0] - self.left) / (self.right - self.left)
        y = (self.high - min(max(point[1], self.low), self.high)) / (self.high - self.low)
        return round(x * (across - 1)), round(y * (down - 1))

    def drawn(self, line: Points) -> list[list[str]]:
        """A line, as rows of characters."""
        if self.braille:
            dots = [self.place(point, self.columns * 2, self.height * 4) for point in line]
            return _braille(dots, self.columns, self.height)
        return _stars([self.place(point, self.columns, self.height) for point in line], self.columns, self.height)


def draw(
    line: Points, marks: Points = (), *, width: int = 72, height: int = 12, braille: bool = True, name: str = ""
) -> list[str]:
    """Lines of text: `line` as connected dots, `marks` as `o`, the axes with their ranges.

    Values far above the rest (the first steps of a training run) are cut off at the top.
    """
    if not line:
        return ["no points yet"]
    paper = Paper(line, marks, width=width, height=height, braille=braille)
    canvas = paper.drawn(line)
    for point in marks:
        x, y = paper.place(point, paper.columns, height)
        canvas[y][x] = "o"
    rows = [f"{axis}{''.join(cells)}".rstrip() for axis, cells in zip(paper.axis, canvas, strict=True)]
    first, last = f"{paper.left:,.0f}", f"{paper.right:,.0f} steps"
    room = paper.columns - len(first) - len(last)
    return [*rows, " " * paper.margin + first + name[: max(0, room - 2)].center(room) + last]


def layers(
    line: Points, marks: Points = (), *, width: int, height: int, braille: bool = True
) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Rows of a picture of raw values with their smoothed course over them, and `marks` as `o`.

    Each row is the axis and then characters, each with whether it is bright: of the smoothed line, or a mark.
    """
    paper = Paper(line, marks, width=width, height=height, braille=braille)
    cells = [
        [(bright, True) if bright != " " else (dim, False) for dim, bright in zip(*rows, strict=True)]
        for rows in zip(paper.drawn(line), paper.drawn(smoothed(line)), strict=True)
    ]
    for point in marks:
        x, y = paper.place(point, paper.columns, height)
        cells[y][x] = ("o", True)
    return list(zip(paper.axis, cells, strict=True))


def smoothed(line: Points, *, share: float = 0.02) -> list[tuple[float, float]]:
    """An exponential mean whose half-life is a share of the steps, freed of its bias towards the first value."""
    half_life = max((line[-1][0] - line[0][0]) * share, 1e-9)
    mean = weight = 0.0
    before, found = line[0][0], []
    for step, value in line:
        kept = 0.5 ** (max(step - before, 0.0) / half_life)
        mean, weight, before = mean * kept + value, weight * kept + 1.0, step
        found.append((step, mean / weight))
    return found


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value shown; one value in twenty may lie above the top."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[min(len(ordered) - 1, int(len(ordered) * 0.97))]
    if high - low < 1e-9:
        return low - 0.5, high + 0.5
    return low, high


def _label(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def _braille(dots: Sequence[tuple[int, int]], columns: int, height: int) -> list[list[str]]:
    cells = [[0] * columns for _ in range(height)]
    previous = dots[0]
    for dot in dots:
        for x, y in _between(previous, dot):
            cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
        previous = dot
    return [[chr(EMPTY + cell) if cell else " " for cell in row] for row in cells]


def _stars(dots: Sequence[tuple[int, int]], columns: int, height: int) -> list[list[str]]:
    cells = [[" "] * columns for _ in range(height)]
    previous = dots[0]
    for dot in dots:
        for x, y in _between(previous, dot):
            cells[y][x] = "*"
        previous = dot
    return cells


def _between(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots of a straight line."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (
            start[0] + round((end[0] - start[0]) * step / steps),
            start[1] + round((end[1] - start[1]) * step / steps),
        )
        for step in range(steps + 1)
    ]
