"""Feature specs: text -> frozen typed objects."""

from recmtl.spec._base import Problem, StrictModel
from recmtl.spec.data import DataSpec, Sample, SplitByKey, SplitByTime, Thinned
from recmtl.spec.features import (
    DenseFeature,
    Feature,
    SequenceFeature,
    SparseFeature,
    VectorFeature,
    Vocab,
)
from recmtl.spec.spec import Spec
from recmtl.spec.tasks import Task
from recmtl.spec.yaml_loader import load_yaml, parse_yaml

__all__ = [
    "DataSpec",
    "DenseFeature",
    "Feature",
    "Problem",
    "Sample",
    "SequenceFeature",
    "SparseFeature",
    "Spec",
    "SplitByKey",
    "SplitByTime",
    "StrictModel",
    "Task",
    "Thinned",
    "VectorFeature",
    "Vocab",
    "load_yaml",
    "parse_yaml",
]
