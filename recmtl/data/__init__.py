"""Data: Parquet or CSV -> Batch."""

from recmtl.data.counts import EncodeCounts, FeatureCounts
from recmtl.data.cutting import pad_to
from recmtl.data.encode import Encoders
from recmtl.data.in_order import batches_in_order
from recmtl.data.labels import Population
from recmtl.data.scan import Log, RowGroup, check_columns, open_log
from recmtl.data.split import Splits, open_splits
from recmtl.data.streams import TrainStreams

__all__ = [
    "EncodeCounts",
    "Encoders",
    "FeatureCounts",
    "Log",
    "Population",
    "RowGroup",
    "Splits",
    "TrainStreams",
    "batches_in_order",
    "check_columns",
    "open_log",
    "open_splits",
    "pad_to",
]
