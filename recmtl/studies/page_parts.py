"""What the pages of all studies are made of: templates, tables, bold and code."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

import jinja2

__all__ = ["markdown_end", "markdown_table", "rendered", "text_table"]


def rendered(template: str, **values: Any) -> str:
    """A page of `templates/`, in which `marked` is a filter."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recmtl.studies", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = _marked
    return environment.get_template(template).render(**values) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown.

    Example:
        >>> markdown_table(["key", "value"], [["a", "1"]])
        ['| key | value |', '|---|---|', '| a | 1 |']
    """
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def markdown_end(title: str, notes: Sequence[str], origin: Sequence[tuple[str, str]]) -> list[str]:
    """The last lines of a page in Markdown: what its words mean, and how it came about."""
    lines = ["", f"## {title}", "", *(f"- {note}" for note in notes)]
    return [*lines, "", "## How it came about", "", *(f"- {name}: {v}" for name, v in origin)]


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in columns, the first one to the left.

    Example:
        >>> text_table(["key", "value"], [["a", "1"]])
        ['key  value', 'a        1']
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if c == 0 else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]


def _marked(text: str) -> str:
    """Markdown's bold and code as HTML; everything else is escaped.

    Example:
        >>> _marked("**a** is `b<c`")
        '<b>a</b> is <code>b&lt;c</code>'
    """
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escaped, flags=re.DOTALL)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escaped)
