"""Feature specs: text -> frozen typed objects."""

from recmtl.spec._base import StrictModel
from recmtl.spec.data import DataSpec, SplitByKey, SplitByTime
from recmtl.spec.features import DenseFeature, Feature, SequenceFeature, SparseFeature, Vocab
from recmtl.spec.spec import Spec
from recmtl.spec.tasks import Task

__all__ = [
    "DataSpec",
    "DenseFeature",
    "Feature",
    "SequenceFeature",
    "SparseFeature",
    "Spec",
    "SplitByKey",
    "SplitByTime",
    "StrictModel",
    "Task",
    "Vocab",
]
