"""Numbers as they are read."""

import pytest

from cnnprof import units


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (units.integer(1180160), "1,180,160"),
        (units.integer(None), "-"),
        (units.seconds(0.0123), "12.3 ms"),
        (units.seconds(2e-9), "2.00 ns"),
        (units.seconds(None), "-"),
        (units.bytes_(46784512), "44.6 MiB"),
        (units.bytes_(0), "0 B"),
        (units.count(1814000000), "1.81 G"),
        (units.percent(0.163), "16.3"),
        (units.size((256, 56, 56)), "256x56x56"),
        (units.size(()), "scalar"),
        (units.versus(70016 / 1180160, "fewer", "more"), "16.9x fewer"),
        (units.versus(1.31, "less", "more"), "1.31x more"),
        (units.versus(1.0, "less", "more"), "the same"),
        (units.versus(None, "less", "more"), "-"),
        (units.versus(0.0, "fewer", "more"), "none"),
        (units.plural(1, "operator"), "1 operator"),
        (units.plural(2, "operator"), "2 operators"),
        (units.bar(0.5, 4), "██"),
        (units.bar(0.0), ""),
        (units.bar(1e-9, 4), "▏"),
    ],
)
def test_text(made, text):
    assert made == text


def test_a_column_has_one_unit():
    unit = units.column_unit(units.SECONDS, [2.15, 0.026, None])
    assert [units.in_unit(value, unit, 1) for value in (2.15, 0.026, None, 0)] == ["2,150.0", "26.0", "-", "0"]
    assert units.column_unit(units.SECONDS, [12.0, 0.5]).name == "s"
    assert units.in_unit(40e-6, unit, 1) == "40.0 µs"
    assert units.in_unit(100, units.BYTES[2], 1) == "100 B"
    assert units.in_unit(0.004, units.COUNTS[-1], 1) == "<0.1"


def test_a_count_too_small_for_its_column_is_not_taken_for_more():
    giga = units.COUNTS[1]
    assert units.in_unit(231_410, giga, 3) == "231.4 k"
    assert units.in_unit(640, giga, 3) == "<0.001"  # 640 alone would read as 640 G
    shown = [units.with_unit(value, units.COUNTS[2], 2) for value in (9.41e6, 2.1e3, 110, 0, None)]
    assert shown == ["9.41 M", "2.10 k", "<0.01 M", "0", "-"]


@pytest.mark.parametrize(
    ("values", "heading", "texts"),
    [
        ((2.15, 0.026), "median, ms", ["2,150.0", "26.0"]),
        ((2.005, 144e-9), "median", ["2.00 s", "144.0 ns"]),  # 2.005 lies between two doubles; the nearer is below
        ((0.0402, 0.00004), "median", ["40.2 ms", "40.0 µs"]),
        ((0.0402, 0.00052), "median, ms", ["40.20", "0.52"]),
        ((0.0, None), "median, µs", ["0", "-"]),
    ],
)
def test_a_column_that_one_unit_does_not_show_has_one_a_cell(values, heading, texts):
    column = units.column(units.SECONDS, values, most=2)
    assert column.heading("median") == heading
    assert [column.text(value) for value in values] == texts


def test_an_interval_in_a_column_without_a_unit_has_its_own():
    assert units.column(units.SECONDS, [2.005, 144e-9]).interval((38e-6, 41.2e-6)) == "[38.0, 41.2] µs"
    assert units.column(units.SECONDS, [0.04]).interval((0.038, 0.0412)) == "[38.0, 41.2]"


def test_a_narrow_interval_shows_its_ends():
    assert units.factor(8.31, (8.27, 8.35)) == "8.31x"
    assert units.factor(6.43, (6.12, 6.91)) == "6.4x"
    assert units.factor(16.9) == "16.9x"
    assert units.factor(123.4) == "123x"
