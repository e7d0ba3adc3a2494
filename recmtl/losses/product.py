r"""Events whose probability is a product, :math:`p = \prod_i \sigma(z_i)`, in log space."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recmtl.losses._precision import at_least_float32

__all__ = ["log1mexp", "product_log_odds", "product_log_prob", "product_nll"]

_LOG_HALF = -math.log(2)
_CERTAIN = -1e-30


def log1mexp(s: Tensor) -> Tensor:
    r"""Log of one minus the probability whose logarithm is `s`: :math:`\log(1 - e^s)`.

    Either branch is exact where it is used, and neither sees values from the other's side, whose
    infinite slope would turn into NaN when it is multiplied by zero in the backward pass.

    Args:
        s: logarithms of probabilities below 1.

    Returns:
        Logarithms of the complements, of the same shape and dtype.

    Example:
        >>> log1mexp(torch.tensor([-1e-20, -0.6931472, -50.0])).exp()
        tensor([1.0000e-20, 5.0000e-01, 1.0000e+00])
    """
    likely = s > _LOG_HALF
    log_likely = torch.log(-torch.expm1(torch.where(likely, s, _LOG_HALF)))
    log_unlikely = torch.log1p(-torch.exp(torch.where(likely, _LOG_HALF, s)))
    return torch.where(likely, log_likely, log_unlikely)


def product_log_prob(logits_F: Tensor, factors_F: Tensor | None = None) -> Tensor:
    r"""Log of the probability that all of F events happen: :math:`s = \sum_i \log \sigma(z_i)`.

    Args:
        logits_F: logits of the factors along the last dimension; half precision is widened to
            float32 first.
        factors_F: boolean, broadcast against the logits: which of them are factors (default: all).

    Returns:
        The sums, without the last dimension.

    Example:
        >>> product_log_prob(torch.zeros(2, 3)).exp()
        tensor([0.1250, 0.1250])
    """
    log_probs_F = logsigmoid(at_least_float32(logits_F))
    if factors_F is not None:
        log_probs_F = torch.where(factors_F, log_probs_F, 0.0)
    return log_probs_F.sum(dim=-1)


def product_log_odds(logits_F: Tensor, factors_F: Tensor | None = None) -> Tensor:
    r"""Logit of the probability that all of F events happen: :math:`s - \log(1 - e^s)`.

    It keeps its digits where the probability itself rounds to 0 or 1.

    Args:
        logits_F: logits of the factors along the last dimension; half precision is widened to
            float32 first.
        factors_F: boolean, broadcast against the logits: which of them are factors (default: all).

    Returns:
        The logits, without the last dimension.

    Example:
        >>> product_log_odds(torch.tensor([[0.0, 0.0], [50.0, 60.0]]))
        tensor([-1.0986, 50.0000])
    """
    logits_F = at_least_float32(logits_F)
    s = product_log_prob(logits_F, factors_F)
    return s - _log_complement(s, logits_F, factors_F)


def product_nll(logits_F: Tensor, targets: Tensor, factors_F: Tensor | None = None) -> Tensor:
    r"""Negative log-likelihood of the event that all of F events happen, from their logits.

    .. math:: \ell(z, t) = -t\,s - (1 - t) \log(1 - e^s), \qquad s = \sum_i \log \sigma(z_i)

    With the factors P(click) and P(conversion | click) this is the second loss of the entire-space
    model. Loss and gradients are finite and exact for logits of any size: where all factors are so
    sure that :math:`1 - e^s` leaves float32's range on the way back, :math:`\log \sum_i e^{-z_i}`
    takes its place (equal there to 30 digits).

    Reference: Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating
        Post-Click Conversion Rate", SIGIR 2018, section 2.3. doi:10.1145/3209978.3210104

    Args:
        logits_F: logits of the factors along the last dimension; half precision is widened to
            float32 first.
        targets: 0, 1 or a probability, shaped like the logits without their last dimension.
        factors_F: boolean, broadcast against the logits: which of them are factors (default: all).

    Returns:
        The loss of each element, at least float32.

    Example:
        >>> logits_BF = torch.tensor([[0.0, 0.0], [50.0, 60.0]])  # rows, factors
        >>> product_nll(logits_BF, torch.tensor([1.0, 0.0]))
        tensor([ 1.3863, 50.0000])
    """
    logits_F = at_least_float32(logits_F)
    targets = targets.to(logits_F.dtype)
    s = product_log_prob(logits_F, factors_F)
    return -(targets * s + (1 - targets) * _log_complement(s, logits_F, factors_F))


def _log_complement(s: Tensor, logits_F: Tensor, factors_F: Tensor | None) -> Tensor:
    certain = s > _CERTAIN
    opposite_F = -logits_F if factors_F is None else torch.where(factors_F, -logits_F, -math.inf)
    return torch.where(
        certain, torch.logsumexp(opposite_F, dim=-1), log1mexp(torch.where(certain, _LOG_HALF, s))
    )
