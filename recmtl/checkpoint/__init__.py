"""The format of checkpoints on disk: tensors and a JSON state in a folder, nothing pickled.

``step-00001234/`` holds

- ``*.safetensors``: tensors under logical keys such as ``tables/item_id/weight`` or
  ``net/tower.heads...``, written by `torch.distributed.checkpoint`, each rank its own shards,
- ``state.json``: the JSON value given to `save`,
- ``files.json``: format, size and sha256 of each other file, shape and dtype of each whole tensor.

It appears by a rename, so it is whole or absent. ``checkpoints/index.json`` names the best and the
last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recmtl.checkpoint.index import Index, best, last, read_index, write_index
from recmtl.checkpoint.manifest import fingerprint, read_state, verify
from recmtl.checkpoint.whole import load_full

if TYPE_CHECKING:
    from recmtl.checkpoint.tensors import load_into, save

__all__ = [
    "Index",
    "best",
    "fingerprint",
    "last",
    "load_full",
    "load_into",
    "read_index",
    "read_state",
    "save",
    "verify",
    "write_index",
]


def __getattr__(name: str) -> object:
    """`save` and `load_into`: what they need is slow to import, and scoring needs neither."""
    if name not in ("load_into", "save"):
        raise AttributeError(f"module `recmtl.checkpoint` has no attribute `{name}`")
    from recmtl.checkpoint import tensors

    return getattr(tensors, name)
