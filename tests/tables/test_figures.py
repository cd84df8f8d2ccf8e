"""Figures: drawn only of data that is there, and each says what it shows."""

import pytest
from figure_note import note_of
from planted_rows import only, planted, row, tables_of

from bench.tables import figures


def test_a_figure_without_data_is_not_drawn():
    def kinds(rows):
        return {name.split("/")[1].split("-")[0] for name in figures.draw_all(tables_of(rows))}

    assert kinds([row("full", 1.0, 0), row("new", 0.05, 0)]) == set()
    small = {"better": 0.05}
    assert kinds(planted(2, (0.05,), 2, small)) == {"differences"}
    assert kinds(planted(2, (0.05, 0.2), 2, small)) == {"differences", "keep", "tokens", "seconds"}
    curves = planted(2, (0.05,), 2, small, eval_every=10)
    assert kinds(curves) == {"differences", "curve"}
    several = planted(2, (0.05,), 2, small) + [row("better", 0.05, s, k=4) for s in (0, 1)]
    assert kinds(several) == {"differences", "k"}


def test_curves_are_over_the_steps_that_every_seed_has():
    (table,) = tables_of(planted(3, (0.05,), 3, {"better": 0.05}, eval_every=10))
    steps, accuracy_SE = figures.seed_curves(only(table, "better"))
    assert steps[:3] == [10, 20, 30] and accuracy_SE.shape == (3, len(steps))
    assert accuracy_SE[2, 0] - accuracy_SE[0, 0] == pytest.approx(0.02)


def test_curves_say_what_they_were_measured_on():
    (table,) = tables_of(planted(2, (0.05,), 2, {"a": 0.0}, eval_every=10, curve_items=128))
    note = note_of(figures.learning_curves(table))
    assert "Accuracy on tiny_math_tune (first 128 items), mean" in note
    assert "tiny_math," not in note and "300 items" not in note
