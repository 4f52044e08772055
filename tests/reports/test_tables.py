import math
import os
import re

import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.reports.tables import format_value, markdown_table, quantity, terminal_width, text_table

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


WIDE = [
    {"arm": "rfo, actor_learning_rate = 0.001", "seeds": 5, "final [95 % interval]": "192.3 [189.8, 193.7]",
     "area [95 % interval]": "-141.0 [-138.6, 142.9]", "env steps": 1_000_064, "file": "/a/long/path/of/a/file.png"},
    {"arm": "apg", "seeds": 10, "final [95 % interval]": "1,234 [1,001, 1,500]",
     "area [95 % interval]": "1.000", "env steps": 5, "file": "b"},
]  # fmt: skip


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 44, 30])
def test_a_table_fits_and_breaks_no_number(width):
    text = text_table(WIDE, width=width)
    assert max(map(len, text.splitlines())) <= width
    for whole in ("[189.8, 193.7]", "192.3", "-141.0", "[-138.6, 142.9]", "[1,001, 1,500]", "1,000,064", "0.001"):
        assert re.search(rf"(?<![\w.,-]){re.escape(whole)}(?![\w.,])", text), whole
    if width >= 200:
        assert text == text_table(WIDE)


def test_a_table_folds_headers_first_then_texts_then_goes_on_below():
    rows = [{"name": "one two three four five six", "a long header": 12, "another header": 345}]
    assert text_table(rows, width=46).splitlines() == [
        "                              a long   another",
        "name                          header    header",
        "---------------------------  -------  --------",
        "one two three four five six       12       345",
    ]
    assert text_table(rows, width=38).splitlines()[2:] == [
        "---------------------  ------  -------",
        "one two three four         12      345",
        "five six",
    ]
    assert text_table(rows, width=29).splitlines() == [
        "                       a long",
        "name                   header",
        "---------------------  ------",
        "one two three four         12",
        "five six",
        "",
        "                      another",
        "name                   header",
        "--------------------  -------",
        "one two three four        345",
        "five six",
    ]


def test_many_columns_of_numbers_go_on_below_under_the_first_column():
    rows = [{"metric": "return", **{f"seed {k}": 100.5 + k for k in range(10)}}]
    tables = text_table(rows, width=40).split("\n\n")
    assert len(tables) == 3 and all(table.splitlines()[-1].startswith("return") for table in tables)
    assert " ".join(tables).split().count("109.5") == 1


def test_labels_cannot_break_a_table():
    lines = text_table([{"arm": "a\nb\tc\x1b[31m"}, {"arm": "é"}]).splitlines()  # an accent of its own
    assert len(lines) == 4 and "\x1b" not in lines[2]
    assert len(lines[1]) == len("a b c [31m")


def test_the_width_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "57")
    assert terminal_width() == 57
    for nonsense in ("", "0", "wide", "-3"):
        monkeypatch.setenv("COLUMNS", nonsense)
        monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((123, 40)))
        assert terminal_width() == 123

    def only_standard_error(fd):
        if fd != 2:
            raise OSError
        return os.terminal_size((99, 40))

    monkeypatch.setattr(os, "get_terminal_size", only_standard_error)
    assert terminal_width() == 99  # the output is piped, the person still sits at a terminal

    def nowhere(fd):
        raise OSError

    monkeypatch.setattr(os, "get_terminal_size", nowhere)
    assert terminal_width() == 80 and terminal_width(120) == 120
