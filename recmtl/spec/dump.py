"""A StrictModel as YAML that reads back as itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml
from pydantic import BaseModel

from recmtl.spec._base import StrictModel
from recmtl.spec._yaml import is_plain_string

__all__ = ["one_line", "to_yaml"]


class _OneLine(dict[str, Any]):
    """A mapping that is written on one line."""


class _OneLineList(list[Any]):
    """A list that is written on one line."""


class _Dumper(yaml.SafeDumper):
    """Quotes what would be read as something else; lists of single values stand on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None if is_plain_string(text) and text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def represent_one_line(self, mapping: _OneLine) -> yaml.MappingNode:
        return self.represent_mapping("tag:yaml.org,2002:map", mapping, flow_style=True)

    def represent_one_line_list(self, items: _OneLineList) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)

    def represent_items(self, items: list[Any]) -> yaml.SequenceNode:
        nested = any(isinstance(item, dict) for item in items)
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=not nested)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(_OneLine, _Dumper.represent_one_line)
_Dumper.add_representer(_OneLineList, _Dumper.represent_one_line_list)
_Dumper.add_representer(list, _Dumper.represent_items)


def to_yaml(model: StrictModel) -> str:
    """The model as YAML: defaults written out, each feature and each task on a line of its own.

    Example:
        >>> from recmtl.spec import DataSpec, SplitByKey
        >>> data = DataSpec(train="logs/", valid=SplitByKey(fraction=0.1, by="0123"))
        >>> print(to_yaml(data), end="")
        train: logs/
        valid:
          fraction: 0.1
          by: "0123"
        segments: []
        keep: []
        memory: 1GiB
        accept_leaks: []
    """
    return yaml.dump(
        _plain(model, depth=0), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9
    )


def one_line(value: Any) -> str:
    """A value as YAML on one line, quoted where it would be read as something else.

    Example:
        >>> one_line({"name": "no", "dim": 16, "buckets": [1.0, 2.5]})
        '{name: "no", dim: 16, buckets: [1.0, 2.5]}'
    """
    text = yaml.dump(_flow(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def _flow(value: Any) -> Any:
    if isinstance(value, dict):
        return _OneLine({key: _flow(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return _OneLineList([_flow(item) for item in value])
    return value


def _plain(value: Any, *, depth: int) -> Any:
    """Mappings, lists and scalars: sections in blocks, what is below them on one line each."""
    if isinstance(value, BaseModel | dict) or dataclasses.is_dataclass(value):
        items = {key: _plain(item, depth=depth + 1) for key, item in _items(value)}
        return items if depth < 2 else _OneLine(items)
    if isinstance(value, list | tuple):
        return [_plain(item, depth=depth + 1) for item in value]
    return value


def _items(value: Any) -> list[tuple[str, Any]]:
    """Keys and values, without those that are null by default."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, BaseModel):
        defaults = {name: field.default for name, field in type(value).model_fields.items()}
    else:
        defaults = {field.name: field.default for field in dataclasses.fields(value)}
    pairs = [(name, getattr(value, name)) for name in defaults]
    return [(name, item) for name, item in pairs if item is not None or defaults[name] is not None]
