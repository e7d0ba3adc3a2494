"""recmtl: its training step, `train`, `BatchScorer` and `score`.

`train` is all of it: encoders are fitted, data checked and encoded, checkpoints written. Peers take
ids as they are; here each goes through a fitted vocabulary, in training and in scoring.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning  # noqa: F401  imports are not timed, whoever makes them
import polars as pl
import pyarrow.parquet as pq
import torch.distributed as dist
from batches import NUM_BATCHES, cycling
from step import Ours, prepared
from workload import spec

import recmtl
from recmtl.batch import Batch
from recmtl.scoring import BatchScorer

__all__ = ["fit", "forwarder", "predict", "stepper"]


def stepper(tower: str, train: str, batch_size: int, bf16: bool = False) -> Callable[[int], int]:
    """The module's own step."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]  # it is public
    config, encoders, batches = prepared(Path(train).parent, tower, batch_size, sequences=False)
    step = Ours(config, encoders, bf16=bf16)

    def steps(some: list[Batch]) -> None:
        for batch in some:
            step(batch)

    return cycling(steps, batches[:NUM_BATCHES], batch_size)


def forwarder(
    tower: str, train: str, batch_size: int, run: str, tables: str
) -> Callable[[int], int]:
    """Probabilities of encoded batches, by the net of a run."""
    scorer = BatchScorer(run, tables=tables)  # type: ignore[arg-type]  # it checks the word
    frame = pl.read_parquet(train, n_rows=NUM_BATCHES * batch_size)
    parts = frame.iter_slices(batch_size)
    batches = [scorer.encoders.encode(part, labels=False) for part in parts]

    def forward(some: list[Batch]) -> None:
        for batch in some:
            scorer.scores(batch)

    return cycling(forward, batches, batch_size)


def fit(
    tower: str,
    train: str,
    batch_size: int,
    seed: int,
    folder: str,
    ids: str = "vocab: {{}}",
    precision: str = "32-true",
) -> tuple[str, int]:
    """One epoch from Parquet: a whole run."""
    text = spec(tower, ids=ids, batch_size=batch_size).replace(
        "train.parquet, valid: test.parquet", Path(train).name
    )
    path = Path(folder, "spec.yaml")
    path.write_text(text, encoding="utf-8")
    run = f"{folder}/run"
    recmtl.train(
        path,
        data=Path(train).parent,
        out=run,
        overrides=[f"train.seed={seed}", f"train.precision={precision}"],
        overwrite=True,
    )
    return run, _rows(train)


def predict(run: str, test: str, batch_size: int, out: str, tables: str = "fp32") -> int:
    """Scores of a log, from the run on disk."""
    recmtl.score(run, test, out, tables=tables)  # type: ignore[arg-type]  # it checks the word
    return _rows(test)


def _rows(path: str) -> int:
    return int(pq.ParquetFile(path).metadata.num_rows)
