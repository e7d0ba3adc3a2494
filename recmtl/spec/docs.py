"""The tables of keys in `feature_specs/README.md`, written from the models' own documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from recmtl.spec._base import StrictModel

__all__ = ["fill_tables"]

Schema = Mapping[str, Any]

_TABLE = re.compile(r"<!-- keys: (\w+) -->\n.*?<!-- end of keys -->", re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def fill_tables(page: str, model: type[StrictModel]) -> str:
    r"""The page with a table of keys at each ``<!-- keys: Name --> <!-- end of keys -->``.

    Args:
        page: Markdown with one such place, under a heading, for each config in the model.
        model: the whole file.

    Raises:
        ValueError: a config has no place on the page, or a place no config.

    Example:
        >>> from recmtl.spec import Vocab
        >>> page = "# Ids\n<!-- keys: Vocab -->\n<!-- end of keys -->\n"
        >>> print(fill_tables(page, Vocab).splitlines()[6])
        | `min_count` | integer, at least 1 | `1` | An id needs this many training rows; ...
    """
    schema = model.model_json_schema()
    sections: dict[str, Schema] = {**schema.get("$defs", {}), model.__name__: schema}
    anchors = {
        place[1]: _anchor(_HEADING.findall(page[: place.start()])[-1])
        for place in _TABLE.finditer(page)
    }
    if astray := sorted(anchors.keys() ^ sections.keys()):
        raise ValueError(f"every config needs one `<!-- keys: ... -->` on the page, got {astray}.")

    def table(place: re.Match[str]) -> str:
        rows = _rows(sections[place[1]], sections, anchors)
        note = _one_line(sections[place[1]].get("description", ""))
        lines = [
            note,
            "",
            "| key | value | default | meaning |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
        return "\n".join([f"<!-- keys: {place[1]} -->", *lines, "<!-- end of keys -->"])

    return _TABLE.sub(table, page)


def _rows(section: Schema, sections: Mapping[str, Schema], anchors: Mapping[str, str]) -> list[str]:
    rows: list[str] = []
    for key, value in section["properties"].items():
        meaning = value.get("description") or sections.get(_name_of(value), {}).get(
            "description", ""
        )
        default = _default(value, is_required=key in section.get("required", ()))
        cells = [f"`{key}`", _type(value, anchors), default, meaning]
        shown = [_one_line(cell).replace("|", r"\|") for cell in cells]
        rows.append(f"| {' | '.join(shown)} |")
    return rows


def _type(value: Schema, anchors: Mapping[str, str]) -> str:
    """What a value may be, in words."""
    if name := _name_of(value):
        return f"[{name}](#{anchors[name]})"
    if members := value.get("anyOf") or value.get("oneOf"):
        words = [_type(member, anchors) for member in members if member != {"type": "null"}]
        null = ["`null`"] if len(words) < len(members) else []
        return " or ".join([*words, *null])
    if "enum" in value or "const" in value:
        return " or ".join(f"`{v}`" for v in value.get("enum", [value.get("const")]))
    if value["type"] == "array":
        return f"list of: {_type(value['items'], anchors)}"
    if value["type"] == "object":
        return f"mapping to: {_type(value['additionalProperties'], anchors)}"
    bounds = [f"{words} {value[key]:,}" for key, words in _BOUNDS.items() if key in value]
    return ", ".join([_WORDS.get(str(value["type"]), str(value["type"])), *bounds])


_WORDS = {"boolean": "`true` or `false`"}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}


def _name_of(value: Schema) -> str:
    return str(value.get("$ref", "")).rpartition("/")[2]


def _default(value: Schema, *, is_required: bool) -> str:
    if is_required or "const" in value:
        return "required"
    if "default" not in value:
        return "see there"
    return "" if value["default"] is None else f"`{json.dumps(value['default'])}`".replace('"', "")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _anchor(heading: str) -> str:
    """GitHub's anchor of a heading.

    Example:
        >>> _anchor("`train.embedding`: the tables")
        'trainembedding-the-tables'
    """
    letters = heading.lower().replace(" ", "-")
    return "".join(c for c in letters if c.isalnum() or c in "-_")
