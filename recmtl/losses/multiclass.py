"""Negative log-likelihood of one class out of several."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recmtl.losses._precision import at_least_float32

__all__ = ["multiclass_nll"]


def multiclass_nll(logits_C: Tensor, targets: Tensor) -> Tensor:
    r"""Cross entropy: negative log-likelihood of each target under the softmax of its logits.

    .. math:: \ell(z, t) = -z_t + \log \sum_c e^{z_c} = -\log \sigma\Big(z_t -
        \log \sum_{c \ne t} e^{z_c}\Big)

    It is computed in the second form, which keeps the relative precision of the loss and of its
    gradient where the model is right and sure of it (the first one gives exactly 0 there), and
    which is the binary loss of the logits' difference where there are two classes.

    Args:
        logits_C: logits of at least two classes along the last dimension; half precision is widened
            to float32 first.
        targets: class numbers from 0 on, in any dtype, shaped like the logits without their last
            dimension.

    Returns:
        The loss of each target, at least float32.

    Example:
        >>> logits_BC = torch.tensor([[0.0, 0.0, 0.0], [40.0, 0.0, -40.0]])  # rows, classes
        >>> multiclass_nll(logits_BC, torch.tensor([2, 0]))
        tensor([1.0986e+00, 4.2484e-18])
    """
    logits_C = at_least_float32(logits_C)
    target_1 = targets.to(torch.int64).unsqueeze(-1)
    own = logits_C.gather(-1, target_1).squeeze(-1)
    others = logits_C.scatter(-1, target_1, -math.inf).logsumexp(dim=-1)
    return -logsigmoid(own - others)
