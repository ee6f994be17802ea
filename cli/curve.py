"""A curve drawn with characters: a terminal has no pictures, and a pipe has no colours."""

from collections.abc import Sequence

Points = Sequence[tuple[float, float]]

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Braille: which bit is the dot in this row and column of a character (Unicode 16, table 2800)."""
EMPTY = 0x2800


def draw(
    line: Points, marks: Points = (), *, width: int = 72, height: int = 12, braille: bool = True, name: str = ""
) -> list[str]:
    """Lines of text: `line` as connected dots, `marks` as `o`, the axes with their ranges.

    Values far above the rest (the first steps of a training run) are cut off at the top.
    """
    if not line:
        return ["no points yet"]
    low, high = _range([value for _, value in (*line, *marks)])
    left, right = line[0][0], max(line[-1][0], line[0][0] + 1)
    labels = [_label(high - (high - low) * row / max(1, height - 1)) for row in range(height)]
    margin = max(map(len, labels)) + 2
    columns = max(10, width - margin)

    def place(point: tuple[float, float], across: int, down: int) -> tuple[int, int]:
        x = (point[0] - left) / (right - left)
        y = (high - min(max(point[1], low), high)) / (high - low)
        return round(x * (across - 1)), round(y * (down - 1))

    if braille:
        canvas = _braille([place(point, columns * 2, height * 4) for point in line], columns, height)
    else:
        canvas = _stars([place(point, columns, height) for point in line], columns, height)
    for point in marks:
        x, y = place(point, columns, height)
        canvas[y][x] = "o"
    shown = {0, height // 2, height - 1}
    rows = [
        f"{labels[row] if row in shown else '':>{margin - 2}} {'┤' if braille else '|'}{''.join(cells)}".rstrip()
        for row, cells in enumerate(canvas)
    ]
    first, last = f"{left:,.0f}", f"{right:,.0f} steps"
    middle = name[: max(0, columns - len(first) - len(last) - 2)].center(columns - len(first) - len(last))
    return [*rows, " " * margin + first + middle + last]


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
