"""How many plain steps come as near, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from secateur.measuring.plain_steps import best_solver, in_words, steps_as_near

PLAIN = {40: 36.0, 10: 30.0, 20: 34.0}  # 4 dB from 10 to 20 steps, 2 dB from 20 to 40


@pytest.mark.parametrize(
    ("psnr_db", "steps", "text"),
    [
        (30.0, 10, "10"),
        (32.0, 10 * 2**0.5, "14"),  # half of the way in dB, half of the way in octaves
        (33.0, 10 * 2**0.75, "17"),
        (34.0, 20, "20"),
        (35.0, 20 * 2**0.5, "28"),
        (36.0, 40, "40"),
        (36.1, None, "never"),
        (25.0, 10, "< 10"),
    ],
)
def test_steps_are_interpolated_between_those_measured(psnr_db, steps, text) -> None:
    assert steps_as_near(psnr_db, PLAIN) == (None if steps is None else pytest.approx(steps))
    assert in_words(psnr_db, PLAIN) == text


def test_the_fewest_steps_count_where_more_steps_are_worse_again() -> None:
    bent = {10: 30.0, 20: 36.0, 40: 33.0}
    assert steps_as_near(33.0, bent) == pytest.approx(10 * 2**0.5)
    assert steps_as_near(37.0, bent) is None
    assert steps_as_near(36.0, {10: 30.0, 20: 30.0, 40: 36.0}) == pytest.approx(40)


def test_the_best_solver_is_the_nearest_at_that_many_steps() -> None:
    curves = {"DDIM": {10: 30.8, 50: 70.0}, "UniPC": {10: 34.6, 50: 41.0}, "Heun": {50: 99.0}}
    assert best_solver(curves, 10) == "UniPC"
    assert best_solver(curves, 50) == "Heun"
    with pytest.raises(ValueError, match="no solver was measured at 7 steps"):
        best_solver(curves, 7)
    with pytest.raises(ValueError, match="no plain steps"):
        steps_as_near(30.0, {})
