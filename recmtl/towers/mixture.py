"""What each gate makes of the experts.

Shape letters: B rows, D input width, G gates, E experts, H expert width.
"""

from __future__ import annotations

from torch import Tensor

from recmtl.towers.chunked import is_watched
from recmtl.towers.expert_bank import ExpertBank
from recmtl.towers.layers import GateBank

__all__ = ["mixture"]


def mixture(experts: ExpertBank, gates: GateBank, x: Tensor) -> Tensor:
    """Each gate's mixture of the experts' outputs, ``(B, G, H)``.

    Args:
        experts: the bank of experts.
        gates: their gates, which read the same input.
        x: ``(B, D)`` or ``(B, G, D)``.
    """
    are_known = type(experts) is ExpertBank and type(gates) is GateBank
    if are_known and gates.is_linear and experts.can_chunk(x) and not is_watched(gates):
        return experts.chunked(x, gates.columns(), gates.sizes)
    gate_BGE: Tensor = gates(x)
    expert_BEH: Tensor = experts(x)
    return gate_BGE @ expert_BEH
