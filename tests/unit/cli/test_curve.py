"""Curves from characters."""

import math

import pytest

from cli.curve import draw

FALLING = [(step, 3.0 + 5.0 * math.exp(-step / 40)) for step in range(1, 400)]


@pytest.mark.parametrize("braille", [True, False])
@pytest.mark.parametrize("width", [40, 78, 120])
def test_it_keeps_to_its_box(braille: bool, width: int) -> None:
    lines = draw(FALLING, width=width, height=10, braille=braille, name="loss")
    assert len(lines) == 11
    assert max(map(len, lines)) <= width


def test_plain_characters_are_plain() -> None:
    assert all(line.isascii() for line in draw(FALLING, braille=False))


def test_a_falling_curve_falls_from_left_to_right() -> None:
    rows = draw(FALLING, width=60, height=8, braille=False)[:-1]
    first, last = rows[0], rows[-1]
    assert first.index("*") < 15
    assert last.rindex("*") > 50
    assert "*" not in last[:15]


def test_the_axes_say_the_range() -> None:
    lines = draw(FALLING, width=60)
    assert lines[-1].split()[0] == "1"
    assert lines[-1].endswith("399 steps")
    assert float(lines[-2].split()[0]) == pytest.approx(3.0, abs=0.01)


def test_a_spike_does_not_flatten_the_rest() -> None:
    spiked = [(step, 1000.0 if step == 5 else value) for step, value in FALLING]
    assert float(draw(spiked)[0].split()[0]) < 10


def test_marks_stand_on_the_curve() -> None:
    lines = draw(FALLING, [(399, 3.0)], width=60, height=8)
    assert lines[7].rstrip().endswith("o")


@pytest.mark.parametrize("points", [[(1, 2.0)], [(1, 2.0), (2, 2.0)]])
def test_few_or_equal_points(points: list[tuple[float, float]]) -> None:
    assert len(draw(points, height=5)) == 6


def test_no_points() -> None:
    assert draw([]) == ["no points yet"]
