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
    assert units.in_unit(1e-6, unit, 1) == "<0.1"


def test_a_narrow_interval_shows_its_ends():
    assert units.factor(8.31, (8.27, 8.35)) == "8.31x"
    assert units.factor(6.43, (6.12, 6.91)) == "6.4x"
    assert units.factor(16.9) == "16.9x"
    assert units.factor(123.4) == "123x"
