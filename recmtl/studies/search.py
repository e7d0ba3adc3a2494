"""What a search may change: keys of a spec, each with a range or a list of values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from recmtl.config import RunConfig
from recmtl.spec import SequenceFeature
from recmtl.spec.dump import one_line
from recmtl.spec.yaml_loader import read_document

__all__ = [
    "Choices",
    "Range",
    "SearchKey",
    "default_search",
    "held_keys",
    "is_own_section",
    "override",
    "value_of",
]

_DIGITS = 4
_PRIOR = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_DROPOUT = 0.5


@dataclass(frozen=True)
class Range:
    """A key whose value is a number between two others.

    Attributes:
        key: such as `train.lr`.
        low: smallest value.
        high: largest value.
        log: whether values are drawn evenly by their logarithm.
        is_whole: whether values are whole numbers.
    """

    key: str
    low: float
    high: float
    log: bool = False
    is_whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high

    def settled(self, value: float) -> float:
        """The value in four digits, as a spec should show it, and still in the range.

        Example:
            >>> Range("train.lr", 0.001, 0.1).settled(0.0123456), Range("a", 0, 9).settled(9.9)
            (0.01235, 9)
            >>> Range("train.epochs", 1, 10_000, is_whole=True).settled(9_999)
            9999
        """
        if self.is_whole:
            return int(value)
        return min(self.high, max(self.low, float(f"{value:.{_DIGITS}g}")))

    def as_json(self) -> dict[str, Any]:
        """As it is written in a search file."""
        return {"low": self.low, "high": self.high, "log": self.log}

    def words(self) -> str:
        """As one reads it."""
        return f"{one_line(self.low)} to {one_line(self.high)}" + (", log" if self.log else "")


@dataclass(frozen=True)
class Choices:
    """A key whose value is one of several.

    Attributes:
        key: such as `wide`.
        values: what it may be, as in a spec.
    """

    key: str
    values: tuple[Any, ...]

    @property
    def is_ordered(self) -> bool:
        """Whether values are numbers, or lists of as many numbers each, in rising order.

        Neighbours then say something about one another.

        Example:
            >>> Choices("a", (0.0, 1e-6, 1e-3)).is_ordered, Choices("a", (3, 1)).is_ordered
            (True, False)
            >>> Choices("a", ([64, 32], [128, 64])).is_ordered, Choices("a", ("fm",)).is_ordered
            (True, False)
        """
        lists = [value if isinstance(value, list) else [value] for value in self.values]
        are_numbers = all(type(part) in (int, float) for value in lists for part in value)
        if not are_numbers or len({len(value) for value in lists}) > 1:
            return False
        return all(one < other for one, other in pairwise(lists))

    def place(self, value: Any) -> int | None:
        """Position of a value, if it is one of them."""
        for n, known in enumerate(self.values):
            if known == value and isinstance(known, bool) == isinstance(value, bool):
                return n
        return None

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return self.place(value) is not None

    def as_json(self) -> dict[str, Any]:
        """As it is written in a search file."""
        return {"choices": list(self.values)}

    def words(self) -> str:
        """As one reads it."""
        return ", ".join(one_line(value) for value in self.values)


SearchKey = Range | Choices


def override(key: str, value: Any) -> str:
    """A value of a key, as the command line would have it.

    Example:
        >>> override("tower.expert_widths", [64, 32]), override("wide", "fm")
        ('tower.expert_widths=[64, 32]', 'wide=fm')
    """
    return f"{key}={one_line(value)}"


def default_search(config: RunConfig) -> tuple[SearchKey, ...]:
    """What is searched unless something else is asked for; the spec's own values lie in it.

    Learning rates and the scale of initial embeddings from a tenth to ten times the spec's, the
    prior on embeddings, and of the tower the dropout and half, once and twice the number of
    experts and their widths; and what stands beside it.
    """
    return tuple(_defaults(config))


def _defaults(config: RunConfig) -> Iterator[SearchKey]:
    train, tables = config.train, config.train.embedding
    yield _around("train.lr", train.lr)
    if config.tables:
        yield _around("train.embedding.lr", tables.lr)
        yield Choices("train.embedding.prior", tuple(sorted({*_PRIOR, tables.prior})))
        yield _around("train.embedding.init_scale", tables.init_scale)
    yield from _of_tower(config.tower, "tower")
    num_fields = sum(not isinstance(feature, SequenceFeature) for feature in config.features)
    products = ("fm", "fwfm") if num_fields > 1 else ()
    if not _own_keys(config.wide):
        yield Choices("wide", tuple(dict.fromkeys(("none", "linear", *products, config.wide.kind))))


def _own_keys(section: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(section) if field.name != "kind"]


def _around(key: str, own: float) -> Range:
    low, high = (float(f"{own * times:.{_DIGITS}g}") for times in (0.1, 10))
    return Range(key, low, high, log=True)


def _of_tower(tower: Any, section: str) -> Iterator[SearchKey]:
    has_experts = hasattr(tower, "expert_widths")
    for name in _own_keys(tower):
        key, own = f"{section}.{name}", getattr(tower, name)
        if name == "dropout":
            yield Range(key, 0.0, max(_DROPOUT, own))
        elif name == "head":
            yield from _of_tower(own, key)
        elif name.startswith("num_") and name.endswith("experts") and own:
            yield Choices(key, tuple(sorted({max(1, own // 2), own, 2 * own})))
        elif own and name == ("expert_widths" if has_experts else "head_widths"):
            half, twice = ([max(1, round(width * by)) for width in own] for by in (0.5, 2))
            values = [half, list(own), twice]
            yield Choices(key, tuple(v for n, v in enumerate(values) if v not in values[:n]))


def value_of(config: RunConfig, key: str) -> Any:
    """A spec's own value of a key, as YAML would show it; None where it has no such key.

    A section that says nothing but its kind is a word, as in `wide: fm`.
    """
    here: Any = config.model_dump(mode="json")
    parts: Sequence[str] = key.split(".")
    while parts:
        here, used = _step(here, parts)
        parts = parts[used:]
    return here["kind"] if isinstance(here, dict) and set(here) == {"kind"} else here


def is_own_section(config: RunConfig, key: str, value: Any) -> bool:
    """Whether a value is the kind that a section of the spec has, whose other keys then stay.

    `tower: mmoe` among choices means the spec's own tower where that is an MMoE, and the defaults
    of one where it is another.
    """
    own = value_of(config, key)
    return isinstance(own, dict) and "kind" in own and own["kind"] == value


def _step(here: Any, parts: Sequence[str]) -> tuple[Any, int]:
    """What the first of some parts of a key lead to, and how many parts it took."""
    if isinstance(here, list):  # features and tasks go by name, and a name may have dots
        for used in range(len(parts), 0, -1):
            for item in here:
                if isinstance(item, Mapping) and item.get("name") == ".".join(parts[:used]):
                    return item, used
    if isinstance(here, Mapping) and parts[0] in here:
        return here[parts[0]], 1
    return None, len(parts)


def held_keys(keys: Sequence[SearchKey], overrides: Sequence[str]) -> dict[str, str]:
    """Searched keys that the command line settles -> the override that does.

    A section is settled by what sets one of its keys: another kind of tower would undo it.

    Example:
        >>> keys = (Choices("wide", ("fm", "none")), Choices("tower", ("ple", "mmoe")))
        >>> held_keys(keys, ["tower.dropout=0.1", "wide={kind: fm}", "train.lr=0.1"])
        {'wide': 'wide={kind: fm}', 'tower': 'tower.dropout=0.1'}
    """
    written = {leaf: text for text in overrides for leaf in _leaves_of(text)}
    return {
        searched.key: text
        for searched in keys
        for leaf, text in written.items()
        if leaf == searched.key or leaf.startswith(f"{searched.key}.")
    }


def _leaves_of(text: str) -> Iterator[str]:
    """The keys whose values an override writes; a kind is that of its section."""
    key, _, value = text.partition("=")
    for leaf in _leaves(key.strip(), read_document(value).data):
        yield leaf.removesuffix(".kind")


def _leaves(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping) or not value:
        yield key
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)
