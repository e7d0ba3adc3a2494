"""Ids -> vectors: sharded tables for training, plain ones for scoring."""

from recmtl.embeddings.config import EmbeddingConfig
from recmtl.embeddings.plain import PlainLookup
from recmtl.embeddings.tables import Layout, Table, layout

__all__ = ["EmbeddingConfig", "Layout", "PlainLookup", "Table", "layout"]
