"""What an exported model takes: a few plain tensors for each feature, as any server can make them.

Shape letters: B rows, L values of a list, V components of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from recmtl.batch import Batch, Ragged
from recmtl.data.cutting import cut_rows
from recmtl.embeddings import Layout
from recmtl.embeddings.pooling import positions
from recmtl.errors import DataError, SpecError
from recmtl.spec import DenseFeature, SparseFeature, Spec, VectorFeature

__all__ = ["ROWS", "ModelInput", "calls_of", "inputs_of", "require_inputs", "tensors_of"]

ROWS = "rows"
"""The size that all inputs share."""
_MOST_VALUES = 1 << 22
"""Of padded lists in one call, where it has several rows."""


class ModelInput(NamedTuple):
    """One tensor that an exported model takes."""

    name: str
    """That of the feature; behind it `.lengths` or `.weights` for what a list has besides."""
    feature: str
    kind: Literal["id", "ids", "lengths", "weights", "number", "vector"]
    shape: tuple[int | str, ...]
    """Sizes; those with a name differ from call to call and are at least 1."""
    below: int | None = None
    """Ids, from 0 (out-of-vocabulary) on, and lengths are below it."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its values."""
        is_whole = self.kind in ("id", "ids", "lengths")
        return torch.int64 if is_whole else torch.float32

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> ModelInput:
        """The input that `described` describes."""
        name, feature, kind, shape = (described[key] for key in cls._fields[:4])
        return cls(name, feature, kind, tuple(shape), described.get("below"))

    def described(self) -> dict[str, Any]:
        """As `schema.json` says it."""
        dtype = str(self.dtype).removeprefix("torch.")
        found = self._asdict() | {"shape": list(self.shape), "dtype": dtype}
        if self.below is None:
            del found["below"]
        return found


def inputs_of(spec: Spec, layout: Layout) -> tuple[ModelInput, ...]:
    """All inputs of a model, in the order of the spec's features.

    An id is `[B]`. A list is a matrix of ids `[B, L]`, each row's values first and then anything
    inside the table, with their number `[B]`; L is `max_len` for a sequence, and otherwise what the
    longest list of the call takes. A number is `[B]`, and a vector `[B, V]`.

    Raises:
        SpecError: two inputs would have one name.
    """
    bags = {bag.name: bag for bag in layout.bags}
    max_len = {sequence.name: sequence.max_len for sequence in layout.sequences}
    rows_of = {name: table.num_embeddings for table in layout.tables for name in table.features}
    found: list[ModelInput] = []
    for feature in spec.features:
        name = feature.name
        if isinstance(feature, DenseFeature):
            found.append(ModelInput(name, name, "number", (ROWS,)))
        elif isinstance(feature, VectorFeature):
            found.append(ModelInput(name, name, "vector", (ROWS, feature.dim)))
        elif isinstance(feature, SparseFeature) and name not in bags:
            found.append(ModelInput(name, name, "id", (ROWS,), rows_of[name]))
        else:
            shape = (ROWS, max_len.get(name, f"values of {name}"))
            most = max_len[name] + 1 if name in max_len else None
            found.append(ModelInput(name, name, "ids", shape, rows_of[name]))
            found.append(ModelInput(f"{name}.lengths", name, "lengths", (ROWS,), most))
            if name in bags and bags[name].weighted:
                found.append(ModelInput(f"{name}.weights", name, "weights", shape))
    names = [each.name for each in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(
            f"features: the export would have two inputs called `{twice[0]}`, a feature and the "
            "lengths or weights of a list. Rename the feature's column."
        )
    return tuple(found)


def calls_of(
    batch: Batch, spec: Spec, inputs: Sequence[ModelInput]
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """The rows of a batch in a few calls, in their order, and what the model takes in each.

    All lists of a call are padded to its longest: one long list beside thousands of rows would take
    gigabytes. So a batch is halved until its lists are small, or it is one row.
    """
    lists = batch.bags | batch.sequences
    values = sum(
        each.shape[1] if isinstance(each.shape[1], int) else int(lists[each.name].lengths_B.max())
        for each in inputs
        if each.kind == "ids"
    )
    half = len(batch) // 2
    if not half or len(batch) * values <= _MOST_VALUES:
        yield batch, tensors_of(batch, spec, inputs)
        return
    for part in cut_rows(batch, [half, len(batch) - half]):
        yield from calls_of(part, spec, inputs)


def tensors_of(batch: Batch, spec: Spec, inputs: Sequence[ModelInput]) -> dict[str, Tensor]:
    """The rows of a batch as the tensors that a model takes.

    Args:
        batch: encoded rows.
        spec: what they were encoded for.
        inputs: what the model takes.
    """
    ids = iter(batch.ids_FB)
    lists = batch.bags | batch.sequences
    longest = {
        name: max(1, int(column.lengths_B.max())) if len(batch) else 1
        for name, column in lists.items()
    }
    found: dict[str, Tensor] = {}
    single = {each.feature for each in inputs if each.kind == "id"}
    by_feature = {f.name: next(ids) for f in spec.sparse if f.name in single}
    for each in inputs:
        name = each.feature
        if each.kind == "id":
            tensor = by_feature[name]
        elif each.kind in ("number", "vector"):
            rows_DB = batch.dense_DB[spec.dense_rows[name]]
            tensor = rows_DB[0] if each.kind == "number" else rows_DB.T
        elif each.kind == "lengths":
            tensor = lists[name].lengths_B
        else:
            size = each.shape[1] if isinstance(each.shape[1], int) else longest[name]
            tensor = _padded(lists[name], size, weights=each.kind == "weights")
        found[each.name] = tensor.contiguous()
    return found


def require_inputs(inputs: Sequence[ModelInput], given: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a call in the order of the inputs, once they are known to be right.

    Arrays become tensors. Nothing of a model checks ids: out of range, one runtime would stop,
    another read a wrong row.

    Raises:
        DataError: an input is missing or unknown, or one has another type or shape, or an id is
            outside its table; all problems are listed.
    """
    names = [each.name for each in inputs]
    problems = [f"input `{name}` is missing." for name in names if name not in given]
    problems += [f"input `{name}` is not the model's." for name in given if name not in names]
    if problems:
        raise DataError.all_of(problems)
    found = {name: torch.as_tensor(given[name]) for name in names}
    sizes: dict[str, int] = {}
    for each in inputs:
        problem = _problem(each, found, sizes)
        problems += [] if problem is None else [f"input `{each.name}`: {problem}"]
    if problems:
        raise DataError.all_of(problems)
    return found


def _problem(each: ModelInput, found: Mapping[str, Tensor], sizes: dict[str, int]) -> str | None:
    """What is wrong with an input, if anything; a list's ids come before its lengths."""
    tensor = found[each.name]
    if tensor.dtype != each.dtype:
        return f"is {tensor.dtype}, expected {each.dtype}."
    shape = list(tensor.shape)
    expected = [
        sizes.setdefault(size, there) if isinstance(size, str) else size
        for size, there in zip(each.shape, shape, strict=False)
    ]
    if len(shape) != len(each.shape) or shape != expected:
        return f"has shape {shape}, expected {list(each.shape)}."
    if 0 in shape:
        return "has no rows." if not shape[0] else "has no place for a value; pad it to one."
    if each.dtype == torch.float32:
        return None
    least, most = int(tensor.min()), int(tensor.max())
    if least < 0:
        return f"holds {least}, expected 0 or more."
    if each.below is not None and most >= each.below:
        return f"holds {most}, expected 0 to {each.below - 1}."
    if each.kind == "lengths" and most > (places := found[each.feature].shape[1]):
        return f"is {most} where there are {places} places."
    return None


def _padded(column: Ragged, size: int, *, weights: bool) -> Tensor:
    """The values of each row side by side, `[B, L]`, zeros behind them."""
    values_N = column.weights_N if weights else column.values_N
    assert values_N is not None
    index_LB, present_LB = positions(column, size)
    values_N1 = torch.nn.functional.pad(values_N, (0, 1))
    return values_N1[torch.where(present_LB, index_LB, len(values_N)).T]
