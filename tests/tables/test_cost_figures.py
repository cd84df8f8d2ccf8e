"""Accuracy against cost: the front of what nothing beats, on an axis that holds its names."""

from figure_note import note_of
from planted_rows import planted, tables_of

from bench.tables.cost_figures import pareto, pareto_front
from bench.tables.style import house_style


def test_the_pareto_front_holds_what_nothing_beats():
    points = [(3, 0.5), (1, 0.4), (2, 0.4), (2, 0.6), (3, 0.7), (1, 0.3), (9, 0.7)]
    assert pareto_front(points) == [1, 3, 4]
    same_budget = [(100, 0.5), (101, 0.7), (101, 0.6), (200, 0.7), (202, 0.8)]
    assert pareto_front(same_budget) == [1, 4]


def test_an_axis_of_seconds_starts_at_zero_or_later_and_holds_the_names():
    seconds = {"a_rule_with_a_long_name": 45.0, "same": 50.0, "random": 80.0, "full": 190.0}
    rows = planted(2, rules={"a_rule_with_a_long_name": 0.1, "same": 0.0})
    for made in rows:
        made["seconds"] = {"evaluate": 0.0, "total": seconds[made["experiment"]["selector"]]}
    (table,) = tables_of(rows)
    with house_style():
        figure = pareto(table, "seconds")
        figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_xlim()[0] == 0
    assert min(text_.get_window_extent().x0 for text_ in axes.texts) > axes.bbox.x0
    assert "Seconds are by the clock" in note_of(figure)
    assert "clock" not in note_of(pareto(table, "tokens"))
