"""Tables as text: aligned for the terminal, or markdown."""

import math
import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from penstock._errors import require

_GAP = "  "

_READABLE = 20
"""Columns below which a text is not folded while columns can go elsewhere."""

_PIECE = re.compile(r"\[[^\]]*\]\S*|\S+")
"""A word, or all that stands between brackets, as an interval does: what a folded cell keeps on one line."""


def terminal_width(default: int = 80) -> int:
    """Columns for text: what ``COLUMNS`` says, else the width of the terminal in which the command was started.

    The terminal counts also where its output goes through a pipe, for example into ``less``: standard error and
    standard input are asked, too. Where there is none, as in a batch job, the width is ``default``.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    for stream in (sys.__stdout__, sys.__stderr__, sys.__stdin__):
        try:
            width = os.get_terminal_size(stream.fileno()).columns if stream is not None else 0
        except (OSError, ValueError):  # not a terminal; closed
            continue
        if width > 0:
            return width
    return default


def text_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, width: int | None = None
) -> str:
    """An aligned table for a fixed-width font: numbers right, everything else left.

    A table that is too wide folds its headers and texts between words. Where that does not suffice, columns go into
    further tables below, each of which begins with the first column. Numbers, and intervals, are never broken.

    Args:
        rows: one mapping per row; a key that a row lacks leaves the cell empty.
        columns: which keys to show, in order; by default all, in the order of first appearance.
        width: columns of the terminal, see `terminal_width`; None: as wide as it gets.

    Returns:
        The lines joined by newlines, without a trailing one. Only the header line if there are no rows.
    """
    header, cells, numeric = _cells(rows, columns)
    if not header:
        return ""
    table = [[header[j], *(line[j] for line in cells)] for j in range(len(header))]
    blocks = [list(range(len(table)))] if width is None else _blocks(table, numeric, width)
    return "\n\n".join(_block([table[j] for j in block], [numeric[j] for j in block], width) for block in blocks)


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """The same table in markdown, aligned so that it also reads well as plain text."""
    header, cells, numeric = _cells(rows, columns)
    if not header:
        return ""
    header = [_escape(cell) for cell in header]
    cells = [[_escape(cell) for cell in line] for line in cells]
    widths = [max(3, *map(_width, column)) for column in zip(header, *cells, strict=True)]
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    return "\n".join(
        "| " + " | ".join(_pad(*entry) for entry in zip(line, widths, numeric, strict=True)) + " |"
        for line in [header, rule, *cells]
    )


def format_value(value: Any) -> str:
    """A cell's text: four significant digits, thousands separated, an empty cell for None and ``-`` for NaN."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    if isinstance(value, str):
        return value
    if math.isnan(number):
        return "-"
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    if number == 0:
        return "0"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    if abs(number) < 1e-3:
        return f"{number:.2e}"
    return f"{number:.{max(0, 3 - math.floor(math.log10(abs(number))))}f}"


def quantity(value: float | int, digits: int = 4) -> str:
    """A number with a suffix: ``500k``, ``1.25M``, at most ``digits`` significant digits."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        # Rounded first, so that 999,999 becomes 1M and not 1000k.
        if abs(float(f"{value:.{digits}g}")) >= size:
            return f"{value / size:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"


def _blocks(table: Sequence[Sequence[str]], numeric: Sequence[bool], width: int) -> list[list[int]]:
    """Which columns stand beside each other; the first one is in every block."""
    least = [_least_width(*entry) for entry in zip(table, numeric, strict=True)]
    blocks, current, used = [], [0], least[0]
    for j in range(1, len(table)):
        if len(current) > 1 and used + len(_GAP) + least[j] > width:
            blocks.append(current)
            current, used = [0], least[0]
        current.append(j)
        used += len(_GAP) + least[j]
    return [*blocks, current]


def _block(columns: Sequence[Sequence[str]], numeric: Sequence[bool], width: int | None) -> str:
    """One table of columns (header first), folded into the width."""
    if width is None:
        widths = [max(map(_width, column)) for column in columns]
    else:
        widths = _fitted(columns, numeric, width - len(_GAP) * (len(columns) - 1))
    lines = []
    for number, line in enumerate(zip(*columns, strict=True)):
        folded = [_fold(cell, room) for cell, room in zip(line, widths, strict=True)]
        height = max(map(len, folded))
        for k in range(height):
            # A folded header stands on its rule, a folded cell hangs from its first line.
            parts = [part[k - height + len(part)] if number == 0 and k >= height - len(part) else
                     part[k] if number > 0 and k < len(part) else "" for part in folded]  # fmt: skip
            lines.append(_GAP.join(_pad(*entry) for entry in zip(parts, widths, numeric, strict=True)).rstrip())
        if number == 0:
            lines.append(_GAP.join("-" * room for room in widths))
    return "\n".join(lines)


def _fitted(columns: Sequence[Sequence[str]], numeric: Sequence[bool], room: int) -> list[int]:
    """Widths of columns that fit into the room: the widest gives first.

    Headers are folded before texts, and those between words before any word is cut.
    """
    whole = [max(map(_width, column)) for column in columns]
    pairs = list(zip(columns, numeric, strict=True))
    least = [_least_width(*pair) for pair in pairs]
    headers = [max([low, *map(_width, column[1:])]) for low, column in zip(least, columns, strict=True)]
    widths = list(whole)
    for floor in (headers, least, [_uncut_width(*pair) for pair in pairs]):
        while sum(widths) > room and any(now > low for now, low in zip(widths, floor, strict=True)):
            widths[max((j for j in range(len(widths)) if widths[j] > floor[j]), key=lambda j: widths[j])] -= 1
    return widths


def _least_width(column: Sequence[str], numeric: bool) -> int:
    """The width that leaves every word whole; long texts keep enough to be read. Numbers fold their header only."""
    whole = max(map(_width, column[1:]), default=0)
    words = column[:1] if numeric else column
    longest = max((_width(word) for cell in words for word in _PIECE.findall(cell)), default=0)
    return max(longest, whole if numeric else min(whole, _READABLE))


def _uncut_width(column: Sequence[str], numeric: bool) -> int:
    """The width below which a number would be cut. Words of texts may be cut, as in long paths."""
    numbers = [piece for cell in column for piece in _pieces(cell) if piece[0] in "[+-.0123456789"]
    return max([8, *map(_width, column[1:] if numeric else numbers)])


def _pieces(text: str) -> list[str]:
    """Words, and the parts of those that hold slashes: where a word is too long, it is cut there first."""
    return [part for word in _PIECE.findall(text) for part in re.findall(r"[^/]*/|[^/]+", word)]


def _fold(text: str, width: int) -> list[str]:
    """The lines of a cell. Words that are too long are cut."""
    if _width(text) <= width:
        return [text]
    lines = [""]
    for word in _PIECE.findall(text):
        glue = " " if lines[-1] else ""
        whole = _width(word) <= width
        for piece in [word] if whole else _pieces(word):
            if _width(lines[-1] + glue + piece) <= width:
                lines[-1] += glue + piece
            else:
                lines += _cut(piece, width)
            glue = ""
    return [line for line in lines if line]


def _cut(word: str, width: int) -> list[str]:
    """A word in parts of at most ``width`` columns."""
    parts = [""]
    for character in word:
        if parts[-1] and _width(parts[-1] + character) > width:
            parts.append("")
        parts[-1] += character
    return parts


def _cells(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None
) -> tuple[list[str], list[list[str]], list[bool]]:
    if columns is None:
        header = list(dict.fromkeys(key for row in rows for key in row))
    else:
        header = list(columns)
        known = {key for row in rows for key in row}
        for column in header:
            require(not rows or column in known, "columns", column, f"no row has it; rows have {sorted(known)}")
    cells = [[_one_line(format_value(row.get(column))) for column in header] for row in rows]
    numeric = [
        any(_is_number(row.get(column)) for row in rows)
        and all(row.get(column) is None or _is_number(row.get(column)) for row in rows)
        for column in header
    ]
    return [_one_line(str(column)) for column in header], cells, numeric


def _one_line(text: str) -> str:
    """Without line breaks, tabs and control characters, which a label may hold and a table may not."""
    return "".join(character if character.isprintable() else " " for character in text)


def _is_number(value: Any) -> bool:
    # NumPy and JAX scalars are numbers too; strings that look like numbers are not.
    return not isinstance(value, (str, bool, bytes)) and hasattr(value, "__float__")


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _width(text: str) -> int:
    """Columns in a terminal: an ideograph takes two, an accent that is a character of its own takes none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
