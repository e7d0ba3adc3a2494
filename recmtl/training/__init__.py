"""Training with Lightning and TorchRec.

Example:
    .. code-block:: python

        module = MultiTaskModule(config, encoders)
        data = ClickLogDataModule(config, encoders, data_dir="logs/")
        trainer = lightning.Trainer(strategy=TorchRecStrategy(), accelerator="cpu", devices=1)
        trainer.fit(module, datamodule=data)
"""

from recmtl.training.datamodule import ClickLogDataModule
from recmtl.training.fit import TrainResult, fit, require_loggers
from recmtl.training.module import MultiTaskModule
from recmtl.training.save import save_run
from recmtl.training.strategy import TorchRecStrategy

__all__ = [
    "ClickLogDataModule",
    "MultiTaskModule",
    "TorchRecStrategy",
    "TrainResult",
    "fit",
    "require_loggers",
    "save_run",
]
