"""EncodeCounts: what was met while rows were encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["EncodeCounts", "FeatureCounts"]


class FeatureCounts(NamedTuple):
    """Counts of one feature."""

    values: int = 0
    """Values read: rows, or items of lists."""
    nulls: int = 0
    """Nulls among them, and null lists; also NaN in buckets, and what dense features fill."""
    oov: int = 0
    """Ids that the vocabulary does not have."""


class EncodeCounts:
    """Adds up, for each feature, its values, nulls and out-of-vocabulary ids.

    Example:
        >>> counts = EncodeCounts()
        >>> counts.count("user_id", values=3, nulls=1, oov=1)
        >>> counts.to_dict()
        {'user_id': {'values': 3, 'nulls': 1, 'oov': 1}}
    """

    def __init__(self) -> None:
        self.features: dict[str, FeatureCounts] = {}

    def count(self, feature: str, *, values: int, nulls: int, oov: int = 0) -> None:
        """Add to a feature's counts."""
        old = self.features.get(feature, FeatureCounts())
        self.features[feature] = FeatureCounts(
            old.values + values, old.nulls + nulls, old.oov + oov
        )

    def add(self, other: EncodeCounts) -> None:
        """Add all counts of another one."""
        for feature, counts in other.features.items():
            self.count(feature, **counts._asdict())

    def to_dict(self) -> dict[str, dict[str, int]]:
        """As plain numbers, ready for JSON."""
        return {feature: counts._asdict() for feature, counts in self.features.items()}

    @classmethod
    def from_dict(cls, counts: Mapping[str, Mapping[str, int]]) -> EncodeCounts:
        """What `to_dict` gave."""
        new = cls()
        new.features = {feature: FeatureCounts(**numbers) for feature, numbers in counts.items()}
        return new
