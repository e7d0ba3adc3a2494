"""What a model costs: parameters, operations a row, rows a second. Shape letters: B rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from recmtl.data import Log
from recmtl.embeddings import layout
from recmtl.scoring import BatchScorer

__all__ = ["Cost", "cost_of", "summed"]

_ROWS = 256


@dataclass(frozen=True)
class Cost:
    """What a model takes."""

    table_parameters: int
    """Numbers in embedding tables."""
    dense_parameters: int
    """Numbers in all other layers."""
    flops_per_row: float
    """Floating-point operations of the dense part's products in a forward pass, by row; an addition
    and a multiplication are two."""
    rows_per_s: float
    """Training rows a second, as the run measured them."""
    seconds: float
    """Of training: rows of all epochs by rows a second."""


@torch.no_grad()
def cost_of(scorer: BatchScorer, rows: Log) -> Cost:
    """What the model of a finished run costs.

    Args:
        scorer: the run.
        rows: labelled or not; some are passed through the dense part.
    """
    net, encoders = scorer.net, scorer.encoders
    tables = layout(scorer.run.config, encoders.tables, encoders.single, encoders.bags).tables
    some = rows.read(encoders.columns(labels=False), 0, min(_ROWS, rows.num_rows))
    batch = encoders.encode(some, labels=False)
    vectors = net.lookup(batch)
    net.requires_grad_(requires_grad=False)  # the counter looks for gradients of modules' outputs
    with FlopCounterMode(display=False) as counter:
        net.tower(net.inputs(batch, vectors))
    summary = scorer.run.summary or {"rows_per_s": 0.0, "epochs": 0}
    rows_per_s = float(summary["rows_per_s"])
    trained = summary["epochs"] * encoders.num_rows
    return Cost(
        table_parameters=sum(t.num_embeddings * t.embedding_dim for t in tables),
        dense_parameters=sum(
            parameter.numel()
            for module in (net.inputs, net.tower)
            for parameter in module.parameters()
        ),
        flops_per_row=counter.get_total_flops() / max(len(batch), 1),
        rows_per_s=rows_per_s,
        seconds=trained / rows_per_s if rows_per_s > 0 else 0.0,
    )


def summed(costs: Sequence[Cost]) -> Cost:
    """What models take that stand side by side: all of them are trained and asked for each row.

    Example:
        >>> summed([Cost(10, 2, 8.0, 100.0, 1.0), Cost(10, 2, 8.0, 100.0, 1.0)])
        Cost(table_parameters=20, dense_parameters=4, flops_per_row=16.0, rows_per_s=50.0, \
seconds=2.0)
    """
    paces = [1 / cost.rows_per_s for cost in costs if cost.rows_per_s > 0]
    return Cost(
        sum(cost.table_parameters for cost in costs),
        sum(cost.dense_parameters for cost in costs),
        sum(cost.flops_per_row for cost in costs),
        1 / sum(paces) if len(paces) == len(costs) else 0.0,
        sum(cost.seconds for cost in costs),
    )
