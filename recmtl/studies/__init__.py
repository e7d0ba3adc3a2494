"""Studies: questions that take several runs to answer."""

from recmtl.studies.backtest import backtest
from recmtl.studies.compare import compare
from recmtl.studies.tune import tune

__all__ = ["backtest", "compare", "tune"]
