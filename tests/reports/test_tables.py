import math

import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.reports.tables import format_value, markdown_table, quantity, text_table

ROWS = [{"name": "pendulum", "steps": 1200}, {"name": "rod", "steps": 5, "note": "a | b"}]


def test_text_table_aligns_numbers_right_and_text_left():
    assert text_table(ROWS).splitlines() == [
        "name      steps  note",
        "--------  -----  -----",
        "pendulum  1,200",
        "rod           5  a | b",
    ]


def test_markdown_table_is_aligned_and_escaped():
    assert markdown_table(ROWS).splitlines() == [
        "| name     | steps | note   |",
        "| -------- | ----: | ------ |",
        "| pendulum | 1,200 |        |",
        "| rod      |     5 | a \\| b |",
    ]


def test_columns_are_chosen_and_checked():
    assert text_table(ROWS, ["steps"]).splitlines()[0] == "steps"
    with pytest.raises(ConfigurationError, match="no row has it"):
        text_table(ROWS, ["step"])


def test_no_rows():
    assert text_table([]) == "" and markdown_table([]) == ""
    assert text_table([], ["name"]).splitlines() == ["name", "----"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (1234567, "1,234,567"),
        (12345.6, "12,346"),
        (12.3456, "12.35"),
        (0.001234, "0.001234"),
        (1.2e-5, "1.20e-05"),
        (0.0, "0"),
        (-3.0, "-3.000"),
        (math.nan, "-"),
        (math.inf, "∞"),
        ("1e3", "1e3"),
        (np.float32(2.5), "2.500"),
    ],
)
def test_format_value(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (999_999, "1M"), (1_250_000, "1.25M"), (3e9, "3B"), (-2000, "-2k")],
)
def test_quantity(value, text):
    assert quantity(value) == text
