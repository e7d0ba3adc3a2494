"""Multi-task recommendation models: train, evaluate and score CTR/CVR towers on click logs.

The names below are loaded when they are first used: `import recmtl` imports nothing else and
changes nothing. Towers, losses, tasks and metrics are packages of their own, as in
`from recmtl.towers import PLE`, and need torch or numpy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recmtl.analysis.parity import parity
    from recmtl.api import evaluate, explain, export, load_export, score, train, verify
    from recmtl.config import RunConfig, load_spec
    from recmtl.data import Encoders
    from recmtl.scoring import BatchScorer
    from recmtl.spec import Spec
    from recmtl.studies.backtest import backtest
    from recmtl.studies.compare import compare
    from recmtl.studies.diff import diff
    from recmtl.studies.tune import tune
    from recmtl.training import (
        ClickLogDataModule,
        MultiTaskModule,
        TorchRecStrategy,
        TrainResult,
        save_run,
    )

__all__ = [
    "BatchScorer",
    "ClickLogDataModule",
    "Encoders",
    "MultiTaskModule",
    "RunConfig",
    "Spec",
    "TorchRecStrategy",
    "TrainResult",
    "__version__",
    "backtest",
    "compare",
    "diff",
    "evaluate",
    "explain",
    "export",
    "load_export",
    "load_spec",
    "parity",
    "save_run",
    "score",
    "train",
    "tune",
    "verify",
]

__version__ = "0.1.0.dev0"

_HOME_OF = {
    "BatchScorer": "recmtl.scoring",
    "ClickLogDataModule": "recmtl.training",
    "Encoders": "recmtl.data",
    "MultiTaskModule": "recmtl.training",
    "RunConfig": "recmtl.config",
    "Spec": "recmtl.spec",
    "TorchRecStrategy": "recmtl.training",
    "TrainResult": "recmtl.training",
    "backtest": "recmtl.studies",
    "compare": "recmtl.studies",
    "diff": "recmtl.studies",
    "evaluate": "recmtl.api",
    "explain": "recmtl.api",
    "export": "recmtl.api",
    "load_export": "recmtl.api",
    "load_spec": "recmtl.config",
    "parity": "recmtl.analysis",
    "save_run": "recmtl.training",
    "score": "recmtl.api",
    "train": "recmtl.api",
    "tune": "recmtl.studies",
    "verify": "recmtl.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module `recmtl` has no attribute `{name}`")
    from recmtl._extras import import_optional

    value = getattr(import_optional(_HOME_OF[name], f"`recmtl.{name}`"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
