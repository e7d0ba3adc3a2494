"""From the loss of each task on each row to one scalar. Shape letters: B rows, T tasks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recmtl._checks import require_one_of

__all__ = ["joint_likelihood"]


def joint_likelihood(
    losses_BT: Tensor,
    observed_BT: Tensor,
    weight_B: Tensor,
    *,
    task_weight_T: Tensor | None = None,
    normalize: Literal["rows", "observed"] = "rows",
    total_weight: Tensor | None = None,
    observed_weight_T: Tensor | None = None,
) -> Tensor:
    r"""Each task's term of the negative joint log-likelihood; the loss is their sum.

    .. math::
        L_t = \frac{\lambda_t}{W} \sum_{b\ \text{observed}} w_b\, \ell_{bt}, \qquad W = \sum_b w_b

    W counts all rows, so that each row speaks once for each event it shows, however rare the task.
    With ``normalize="observed"`` each task is divided by the weight of its own observed rows
    instead. A task without an observed row contributes exactly 0, with a zero gradient.

    Where several processes share a batch, give the sums over all of them: the terms then add up to
    those of one process that sees every row.

    Args:
        losses_BT: loss of each task on each row; what stands where a task is not observed must be
            finite (put any finite target in place of a missing label before computing it) and is
            ignored.
        observed_BT: boolean, where the task's outcome is known.
        weight_B: sample weights; padded rows have 0.
        task_weight_T: factor of each task (default: 1).
        normalize: divide by the weight of all rows, or by the observed weight of each task.
        total_weight: W of the global batch (default: the sum of `weight_B`); used with ``"rows"``.
        observed_weight_T: observed weight of each task in the global batch (default: this batch's);
            used with ``"observed"``.

    Returns:
        The terms, of shape ``(T,)``.

    Example:
        >>> losses_BT = torch.tensor([[0.5, 4.0], [0.1, 2.0]])
        >>> observed_BT = torch.tensor([[True, False], [True, True]])
        >>> joint_likelihood(losses_BT, observed_BT, torch.ones(2))
        tensor([0.3000, 1.0000])
        >>> joint_likelihood(losses_BT, observed_BT, torch.ones(2), normalize="observed")
        tensor([0.3000, 2.0000])
    """
    require_one_of(("rows", "observed"), normalize=normalize)
    weight_B1 = weight_B.to(losses_BT.dtype).unsqueeze(-1)
    sum_T = (torch.where(observed_BT, losses_BT, 0.0) * weight_B1).sum(dim=0)
    if normalize == "rows":
        divisor = weight_B1.sum() if total_weight is None else total_weight.to(losses_BT.dtype)
    elif observed_weight_T is None:
        divisor = (observed_BT * weight_B1).sum(dim=0)
    else:
        divisor = observed_weight_T.to(losses_BT.dtype)
    terms_T = sum_T / torch.where(divisor > 0, divisor, 1.0)  # nothing observed: 0 / 1
    return terms_T if task_weight_T is None else terms_T * task_weight_T.to(losses_BT.dtype)
