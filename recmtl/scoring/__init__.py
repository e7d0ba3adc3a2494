"""Batch scoring and evaluation: torch and polars; neither TorchRec, FBGEMM nor Lightning."""

from recmtl.scoring.evaluate import evaluate
from recmtl.scoring.scorer import BatchScorer
from recmtl.scoring.writer import ScoreResult, score

__all__ = ["BatchScorer", "ScoreResult", "evaluate", "score"]
