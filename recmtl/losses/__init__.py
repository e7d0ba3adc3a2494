"""Losses: logits and targets -> loss of each element -> one joint likelihood. Torch only."""

from __future__ import annotations

from recmtl.losses.binary import binary_nll
from recmtl.losses.likelihood import joint_likelihood
from recmtl.losses.multiclass import multiclass_nll
from recmtl.losses.product import log1mexp, product_log_odds, product_log_prob, product_nll
from recmtl.losses.regression import squared_error

__all__ = [
    "binary_nll",
    "joint_likelihood",
    "log1mexp",
    "multiclass_nll",
    "product_log_odds",
    "product_log_prob",
    "product_nll",
    "squared_error",
]
