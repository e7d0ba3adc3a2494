"""Looked-up vectors that stay side by side for as long as nobody asks for one of them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

__all__ = ["Vectors", "side_by_side"]


class Vectors(Mapping[str, Tensor]):
    """Feature -> [B, E], a sequence [B, L, E], in the order of the spec.

    Cutting a kernel's output into twenty pieces to join them again in the input of the tower takes
    three times as long, forward and backward, as copying it whole.

    Example:
        >>> import torch
        >>> ab = torch.tensor([[1.0, 2.0, 3.0]])
        >>> vectors = Vectors({("a", "b"): ab}, names=("a", "b"), dims={"a": 1, "b": 2})
        >>> vectors["b"]
        tensor([[2., 3.]])
    """

    def __init__(
        self,
        blocks: Mapping[tuple[str, ...], Tensor],
        *,
        names: Sequence[str],
        dims: Mapping[str, int],
    ) -> None:
        """Keep the blocks.

        Args:
            blocks: neighbouring features -> their vectors side by side; a sequence is alone.
            names: all features in the order of the spec.
            dims: width of each.
        """
        self._blocks = blocks
        self._names = names
        self._dims = dims
        self._block_of = {name: members for members in blocks for name in members}
        self._alone: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        members = self._block_of[name]
        if len(members) == 1:
            return self._blocks[members]
        if name not in self._alone:
            widths = [self._dims[member] for member in members]
            pieces = self._blocks[members].split(widths, dim=1)
            self._alone.update(zip(members, pieces, strict=True))
        return self._alone[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def map_blocks(self, change: Callable[[tuple[str, ...], Tensor], Tensor]) -> Vectors:
        """The same features, each block as `change(members, block)` makes it."""
        blocks = {members: change(members, block) for members, block in self._blocks.items()}
        return Vectors(blocks, names=self._names, dims=self._dims)

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """The vectors of `names` in that order, whole blocks at once."""
        first = 0
        while first < len(names):
            members = self._block_of[names[first]]
            is_whole = members == tuple(names[first : first + len(members)])
            yield names[first], self._blocks[members] if is_whole else self[names[first]]
            first += len(members) if is_whole else 1


def side_by_side(
    vectors: Mapping[str, Tensor], names: Sequence[str]
) -> Iterable[tuple[str, Tensor]]:
    """The vectors of `names` in that order, each with its name, neighbours with their first one's.

    Example:
        >>> import torch
        >>> ab = torch.tensor([[1.0, 2.0, 3.0]])
        >>> found = Vectors({("a", "b"): ab}, names=("a", "b"), dims={"a": 1, "b": 2})
        >>> [(name, piece.tolist()) for name, piece in side_by_side(found, ("a", "b"))]
        [('a', [[1.0, 2.0, 3.0]])]
        >>> [(name, piece.tolist()) for name, piece in side_by_side(found, ("b", "a"))]
        [('b', [[2.0, 3.0]]), ('a', [[1.0]])]
    """
    if isinstance(vectors, Vectors):
        return vectors.blocks(names)
    return [(name, vectors[name]) for name in names]
