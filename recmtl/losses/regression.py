"""Loss of a number."""

from __future__ import annotations

from torch import Tensor

from recmtl.losses._precision import at_least_float32

__all__ = ["squared_error"]


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Half the squared error of each element: a Gaussian likelihood of unit variance.

    .. math:: \ell(z, t) = \tfrac12 (z - t)^2

    On standardised targets, a task without any skill costs 1/2 a row, which is comparable with a
    binary task's ln 2.

    Args:
        outputs: any shape; half precision is widened to float32 first.
        targets: of the same shape or one that broadcasts to it.

    Returns:
        The loss of each element, at least float32.

    Example:
        >>> import torch
        >>> squared_error(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0]))
        tensor([2., 0.])
    """
    outputs = at_least_float32(outputs)
    return 0.5 * (outputs - targets.to(outputs.dtype)).square()
