"""Tables as text: aligned for the terminal, or markdown."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from penstock._errors import require


def text_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """An aligned table for a fixed-width font: numbers right, everything else left.

    Args:
        rows: one mapping per row; a key that a row lacks leaves the cell empty.
        columns: which keys to show, in order; by default all, in the order of first appearance.

    Returns:
        The lines joined by newlines, without a trailing one. Only the header line if there are no rows.
    """
    header, cells, numeric = _cells(rows, columns)
    widths = [max(map(_width, column)) for column in zip(header, *cells, strict=True)]
    rule = ["-" * width for width in widths]
    lines = [header, rule, *cells] if header else []
    return "\n".join(
        "  ".join(_pad(*entry) for entry in zip(line, widths, numeric, strict=True)).rstrip() for line in lines
    )


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
    cells = [[format_value(row.get(column)) for column in header] for row in rows]
    numeric = [
        any(_is_number(row.get(column)) for row in rows)
        and all(row.get(column) is None or _is_number(row.get(column)) for row in rows)
        for column in header
    ]
    return header, cells, numeric


def _is_number(value: Any) -> bool:
    # NumPy and JAX scalars are numbers too; strings that look like numbers are not.
    return not isinstance(value, (str, bool, bytes)) and hasattr(value, "__float__")


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
