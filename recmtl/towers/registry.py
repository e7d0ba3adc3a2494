"""Towers that read one vector a row, and can therefore stand on any bottom."""

from __future__ import annotations

from recmtl.towers.cgc import CGC, CGCConfig
from recmtl.towers.esmm import ESMM, ESMMConfig
from recmtl.towers.home import HoME, HoMEConfig
from recmtl.towers.mmoe import MMoE, MMoEConfig
from recmtl.towers.ple import PLE, PLEConfig
from recmtl.towers.shared_bottom import SharedBottom, SharedBottomConfig
from recmtl.towers.tower import Tower

__all__ = ["VECTOR_TOWERS", "VectorTowerConfig"]

VectorTowerConfig = (
    SharedBottomConfig | MMoEConfig | CGCConfig | PLEConfig | ESMMConfig | HoMEConfig
)

VECTOR_TOWERS: dict[type, type[Tower]] = {
    SharedBottomConfig: SharedBottom,
    MMoEConfig: MMoE,
    CGCConfig: CGC,
    PLEConfig: PLE,
    ESMMConfig: ESMM,
    HoMEConfig: HoME,
}
"""Config class -> tower class."""
