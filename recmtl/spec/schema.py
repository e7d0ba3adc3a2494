"""JSON schema of a StrictModel, for editors."""

from __future__ import annotations

from typing import Any

from recmtl.spec._base import StrictModel

__all__ = ["editor_schema"]


def editor_schema(model: type[StrictModel]) -> dict[str, Any]:
    """The model's JSON schema as an editor needs it.

    Integers may be written as `1_000_000`, which YAML 1.2 (and so an editor) takes for a string; a
    component's `kind` is required wherever several kinds are possible.

    Example:
        >>> from recmtl.spec import Vocab
        >>> editor_schema(Vocab)["properties"]["min_count"]["type"]
        ['integer', 'string']
    """
    schema: dict[str, Any] = _for_editors(model.model_json_schema())
    properties, definitions = schema.get("properties", {}), schema.get("$defs", {})
    for section in properties.values():
        for member in section.get("oneOf", ()):
            definition = _definition(definitions, member)
            if "kind" in definition["properties"]:
                definition["required"] = ["kind"]
    for key in sorted(model.shorthands, key=len, reverse=True):  # what is inside comes first
        *outer, last = key.split(".")
        places = [properties]
        for name in outer:
            sections = [found for place in places for found in _sections(definitions, place[name])]
            places = [section["properties"] for section in sections]
        for place in places:
            if last in place:
                place[last] = _with_short_form(definitions, place[last])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _sections(definitions: dict[str, Any], value: dict[str, Any]) -> list[dict[str, Any]]:
    """What a section may be, each kind's definition."""
    return [_definition(definitions, member) for member in value.get("oneOf", (value,))]


def _with_short_form(definitions: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for section in _sections(definitions, full) for kind in _kinds(section)]
    return {"description": full.pop("description", ""), "anyOf": [{"enum": kinds}, full]}


def _definition(definitions: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    definition: dict[str, Any] = definitions[reference["$ref"].rpartition("/")[2]]
    return definition


def _kinds(definition: dict[str, Any]) -> list[str]:
    kind = definition["properties"]["kind"]
    return list(kind["enum"]) if "enum" in kind else [kind["const"]]


def _for_editors(schema: Any, *, is_names: bool = False) -> Any:
    if isinstance(schema, list):
        return [_for_editors(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {
        key: _for_editors(value, is_names=key in ("properties", "$defs") and not is_names)
        for key, value in schema.items()
        if is_names or key not in ("title", "discriminator")
    }
    if not is_names and result.get("type") == "integer":
        result |= {"type": ["integer", "string"], "pattern": "^[0-9]+(_[0-9]+)+$"}
    return result
