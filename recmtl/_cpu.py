"""What this CPU can do."""

from __future__ import annotations

import torch

__all__ = ["multiplies_bf16"]


def multiplies_bf16() -> bool:
    """Whether it has instructions for products of bfloat16; without, they are slower than fp32."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
