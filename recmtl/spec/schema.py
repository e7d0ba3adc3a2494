"""JSON schema of a StrictModel, for editors."""

from __future__ import annotations

from typing import Any

from recmtl.spec._base import StrictModel

__all__ = ["editor_schema"]


def editor_schema(model: type[StrictModel]) -> dict[str, Any]:
    """The model's JSON schema as an editor needs it.

    Integers may be written as `1_000_000`, which YAML 1.2 (and so an editor) takes for a string; a component's `kind` is
    required wherever several kinds are possible.

    Example:
        >>> from recmtl.spec import Vocab
        >>> editor_schema(Vocab)["properties"]["min_count"]["type"]
        ['integer', 'string']
    """
    schema: dict[str, Any] = _for_editors(model.model_json_schema())
    definitions = schema.get("$defs", {})
    for section in schema.get("properties", {}).values():
        for member in section.get("oneOf", ()):
            definition = definitions[member["$ref"].rpartition("/")[2]]
            if "kind" in definition["properties"]:
                definition["required"] = ["kind"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


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
