"""Negative log-likelihood of a yes or no."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from recmtl.losses._precision import at_least_float32

__all__ = ["binary_nll"]


def binary_nll(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Negative log-likelihood of each target, from the logit of its probability.

    .. math:: \ell(z, t) = -t \log \sigma(z) - (1 - t) \log \sigma(-z)

    Each term keeps its relative precision, and so does its gradient. The usual form, ``(1 - t) z -
    log sigmoid(z)``, subtracts two large numbers where the model is right and sure of it, and its
    gradient there is exactly zero.

    Args:
        logits: any shape; half precision is widened to float32 first.
        targets: 0, 1 or a probability, of the same shape or one that broadcasts to it.

    Returns:
        The loss of each element, at least float32.

    Example:
        >>> import torch
        >>> binary_nll(torch.tensor([0.0, 40.0, -40.0]), torch.tensor([1.0, 1.0, 1.0]))
        tensor([6.9315e-01, 4.2484e-18, 4.0000e+01])
    """
    logits = at_least_float32(logits)
    targets = targets.to(logits.dtype)
    return -(targets * logsigmoid(logits) + (1 - targets) * logsigmoid(-logits))
