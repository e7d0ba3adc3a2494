"""TowerInputs: looked-up vectors and dense features -> what a tower takes.

Shape letters: B rows, D width of the input vector, K dense features, F fields, E field width, L
sequence length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate

import torch
from torch import Tensor, nn

from recmtl.batch import Batch
from recmtl.embeddings import Layout
from recmtl.embeddings.vectors import side_by_side
from recmtl.errors import SpecError
from recmtl.spec import SequenceFeature, SparseFeature, Spec
from recmtl.towers import InputDims, TargetAttention, TowerInput

__all__ = ["TowerInputs", "commonest_dim"]


class TowerInputs(nn.Module):
    """The input vector of a row: dense features, vectors, then pooled features, as in the spec.

    A vector is a field through a linear map, whatever its width.

    A sequence enters the vector as the mean of its items or, behind all else, as what attention to
    the target makes of each behaviour, of width E. Towers that require more get a `TowerInput`
    instead: one embedding of width E for each field (a dense feature x as ``w x + b``, a sparse one
    through a linear map where its own width is another; a sequence as it enters the vector, unless
    the tower reads its items), each behaviour's padded sequence (its aligned features side by side,
    mapped to E), and the target that its items are compared with.
    """

    def __init__(
        self,
        spec: Spec,
        layout: Layout,
        *,
        requires: AbstractSet[str],
        field_dim: int,
        who: str,
        attends: bool = False,
    ) -> None:
        """Build the maps that the tower needs.

        Args:
            spec: the features.
            layout: their tables.
            requires: what the tower requires beyond the vector: `fields`, `sequences`, `target`.
            field_dim: width E.
            who: what of the spec requires that, for messages.
            attends: whether sequences enter the vector by attention to their target.

        Raises:
            SpecError: the spec lacks what is required; it names the feature to add.
        """
        super().__init__()
        self.layout = layout
        self.requires = frozenset(requires)
        self.attends = attends
        self.field_dim = field_dim
        dims = layout.dims
        reads_items = attends or "sequences" in requires
        self._apart = frozenset(s.name for s in layout.sequences) if reads_items else frozenset()
        self._in_vector = tuple(name for name in layout.features if name not in self._apart)
        self._pooled_sequences = (
            () if reads_items else tuple(feature.name for feature in spec.sequences)
        )
        self._dense_names = tuple(feature.name for feature in spec.dense)
        self._dense_rows = spec.dense_rows
        self._behaviours: dict[str, tuple[str, ...]] = {}
        for sequence in spec.sequences:
            aligned = self._behaviours.get(sequence.behaviour, ())
            self._behaviours[sequence.behaviour] = (*aligned, sequence.name)
        fields = [f.name for f in spec.features if f.name not in self._apart]
        self.fields = (*fields, *(self._behaviours if attends else ()))
        self._max_len = {sequence.name: sequence.max_len for sequence in layout.sequences}
        self._targets = _targets(spec, layout)
        if requires:
            self._require(spec, who, self.requires)
        if attends:
            self._require(spec, "sequence: `din`", {"sequences", "target"})
        self.maps = nn.ModuleDict()
        if "fields" in requires:
            for name in (*layout.pooled, *self._pooled_sequences):
                self._add_map(f"field_{name}", dims[name])
            num_dense = len(self._dense_names)
            self.dense_weight = nn.Parameter(torch.randn(num_dense, field_dim) * field_dim**-0.5)
            self.dense_bias = nn.Parameter(torch.zeros(num_dense, field_dim))
            for vector in spec.vectors:
                of_field = nn.Linear(vector.dim, field_dim, bias=False)
                self.maps[_module_name(f"field_{vector.name}")] = of_field
        if reads_items:
            for behaviour, names in self._behaviours.items():
                self._add_map(f"sequence_{behaviour}", sum(dims[name] for name in names))
            if self._targets:
                self._add_map("target", sum(dims[name] for name in self._targets))
        self.attention = (
            TargetAttention(field_dim, behaviours=tuple(self._behaviours)) if attends else None
        )

    @property
    def is_plain(self) -> bool:
        """Whether the tower gets the vector alone, and each feature enters it as it is."""
        return not self.requires and not self.attends

    @property
    def dims(self) -> int | InputDims:
        """What the tower is built with: the width of the vector, or the sizes of a `TowerInput`."""
        width = max((place.stop for place in self.columns.values()), default=0)
        if not self.requires:
            return width
        return InputDims(
            x=width,
            fields=self.fields if "fields" in self.requires else (),
            field_dim=self.field_dim,
            sequences={b: self._max_len[names[0]] for b, names in self._behaviours.items()}
            if "sequences" in self.requires
            else {},
        )

    @property
    def columns(self) -> dict[str, slice]:
        """Where each feature stands in the vector; what attention reads is its behaviour's."""
        widths = {name: rows.stop - rows.start for name, rows in self._dense_rows.items()}
        widths |= {name: self.layout.dims[name] for name in self._in_vector}
        if self.attends:
            widths |= dict.fromkeys(self.sequences.values(), self.field_dim)
        stops = dict(zip(widths, accumulate(widths.values()), strict=True))
        return {name: slice(stop - widths[name], stop) for name, stop in stops.items()}

    @property
    def sequences(self) -> dict[str, str]:
        """Behaviour -> the names of its features, aligned ones with a plus between them."""
        return {behaviour: " + ".join(names) for behaviour, names in self._behaviours.items()}

    @property
    def target(self) -> str:
        """The names of the features that items are compared with; empty without any."""
        return " + ".join(self._targets)

    def forward(self, batch: Batch, vectors: Mapping[str, Tensor]) -> Tensor | TowerInput:
        """The tower's input.

        Args:
            batch: rows, for dense features and lengths.
            vectors: what the lookup returned for them.
        """
        parts = [batch.dense_DB.T] if self._dense_rows else []
        parts += [
            _mean(piece, batch.sequences[name].lengths_B) if piece.dim() == 3 else piece
            for name, piece in side_by_side(vectors, self._in_vector)
        ]
        sequences, target_BE = self._compared(batch, vectors) if self._apart else (None, None)
        attended: list[Tensor] = []
        if self.attention is not None:
            assert sequences is not None
            assert target_BE is not None
            attended = self.attention(sequences, target_BE)
        x_BD = torch.cat([*parts, *attended], dim=1)
        if not self.requires:
            return x_BD
        is_asked = "fields" in self.requires
        fields_BFE = self._fields(batch, vectors, attended) if is_asked else None
        if "sequences" not in self.requires:
            return TowerInput(x_BD, fields_BFE=fields_BFE)
        return TowerInput(x_BD, fields_BFE=fields_BFE, sequences=sequences, target_BE=target_BE)

    def _compared(
        self, batch: Batch, vectors: Mapping[str, Tensor]
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor | None]:
        """Each behaviour's items with their lengths, and the target."""
        sequences = {
            behaviour: (
                self._map(
                    f"sequence_{behaviour}", torch.cat([vectors[name] for name in names], dim=2)
                ),
                batch.sequences[names[0]].lengths_B,
            )
            for behaviour, names in self._behaviours.items()
        }
        if not self._targets:
            return sequences, None
        target = torch.cat([vectors[name] for name in self._targets], dim=1)
        return sequences, self._map("target", target)

    def _fields(
        self, batch: Batch, vectors: Mapping[str, Tensor], attended: Sequence[Tensor]
    ) -> Tensor:
        numbers_KB1 = batch.dense_DB[: len(self._dense_names)].unsqueeze(2)
        dense_KBE = numbers_KB1 * self.dense_weight.unsqueeze(1) + self.dense_bias.unsqueeze(1)
        by_name = dict(zip(self._dense_names, dense_KBE.unbind(0), strict=True))
        by_name |= {name: self._map(f"field_{name}", vectors[name]) for name in self.layout.pooled}
        for name in self._pooled_sequences:
            vector = vectors[name]
            if vector.dim() == 3:
                vector = _mean(vector, batch.sequences[name].lengths_B)
            by_name[name] = self._map(f"field_{name}", vector)
        by_name |= dict(zip(self._behaviours, attended, strict=False))
        vector_rows = {n: rows for n, rows in self._dense_rows.items() if n not in by_name}
        for name, rows in vector_rows.items():
            by_name[name] = self._map(f"field_{name}", batch.dense_DB[rows].T)
        return torch.stack([by_name[name] for name in self.fields], dim=1)

    def _add_map(self, name: str, width: int) -> None:
        """A linear map to E from another width; without bias, so that padding stays zero."""
        if width != self.field_dim:
            self.maps[_module_name(name)] = nn.Linear(width, self.field_dim, bias=False)

    def _map(self, name: str, vectors: Tensor) -> Tensor:
        key = _module_name(name)
        mapped: Tensor = self.maps[key](vectors) if key in self.maps else vectors
        return mapped

    def _require(self, spec: Spec, who: str, requires: AbstractSet[str]) -> None:
        problems = []
        if "fields" in requires and not self.fields:
            problems.append(f"{who} needs fields. Add a sparse, dense or vector feature.")
        if "sequences" in requires and not self._behaviours:
            problems.append(
                f"{who} needs a behaviour sequence. Add a feature of `type: sequence`, "
                "for example a list column of the items a user clicked before."
            )
        elif "target" in requires:
            problems += self._target_problems(spec, who)
        if unknown := requires - {"fields", "sequences", "target"}:
            listed = ", ".join(f"`{name}`" for name in sorted(unknown))
            problems.append(f"{who} requires {listed}, which a spec cannot give yet.")
        if problems:
            raise SpecError.all_of(problems)

    def _target_problems(self, spec: Spec, who: str) -> Iterator[str]:
        """Behaviours whose items would be compared with those of others, or with a list."""
        tables = {s.name: spec.table_of(s) for s in spec.sequences}
        single = {f.table: f.name for f in self.layout.single}
        own = {s.name: s.target or single.get(tables[s.name]) for s in spec.sequences}
        for behaviour, names in self._behaviours.items():
            if not any(own[name] for name in names):
                yield (
                    f"{who} needs a target that the items of behaviour `{behaviour}` are compared "
                    "with. Add a single-valued sparse feature that owns or shares the table "
                    f"`{tables[names[0]]}`, or name one as `target` of `{names[0]}`."
                )
        lists = {bag.name for bag in self.layout.bags}
        for name, target in own.items():
            if target in lists:
                yield (
                    f"{who}: the `target` of `{name}` must be single-valued, and column "
                    f"`{target}` holds lists."
                )


def commonest_dim(spec: Spec) -> int:
    """The commonest embedding width of the spec, the first one of several.

    A spec of dense features alone gets 16.
    """
    features: list[SparseFeature | SequenceFeature] = [*spec.sparse, *spec.sequences]
    dims = Counter(spec.dim_of(feature) for feature in features)
    return dims.most_common(1)[0][0] if dims else 16


def _targets(spec: Spec, layout: Layout) -> tuple[str, ...]:
    """What items are compared with, each once: `target`, or the single feature of the table."""
    of_table: dict[str, str] = {}
    for feature in layout.single:
        of_table.setdefault(feature.table, feature.name)
    named = (feature.target or of_table.get(spec.table_of(feature)) for feature in spec.sequences)
    return tuple(dict.fromkeys(name for name in named if name is not None))


def _mean(sequence_BLE: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean of the items that are there; zero where there is none."""
    return sequence_BLE.sum(dim=1) / lengths_B.clamp(min=1).unsqueeze(1)


def _module_name(name: str) -> str:
    """A feature's or behaviour's name as a module may be called: no dots."""
    return re.sub(r"\W", lambda match: f"_{ord(match.group()):x}_", name)
