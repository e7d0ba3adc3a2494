"""What a rank can be asked to do; the same functions serve one process and several."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from recmtl import checkpoint
from recmtl._torchrec import installed_versions
from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders, batches_in_order, open_log
from recmtl.embeddings import EmbeddingConfig, PlainLookup, layout
from recmtl.embeddings.plan import agree
from recmtl.embeddings.sharded import ShardedLookup, shard
from recmtl.errors import DataError, RecMTLError, SpecError
from recmtl.models import build_net, build_tasks
from recmtl.towers import MMoEConfig
from recmtl.training import ClickLogDataModule, MultiTaskModule, TorchRecStrategy
from tests.embeddings.world import ENCODERS, ROWS, SPEC, random_rows, to_batch, world_layout

_GLOBAL_ROWS = 32
TOWER = MMoEConfig(num_experts=2, expert_widths=(8,), head_widths=())


def versions() -> str:
    """What this interpreter trains with."""
    return str(installed_versions())


def fit_encoders(log: str, encoders: str) -> None:
    Encoders.fit(load_spec(f"{log}/spec.yaml"), log).save(encoders)


def train(
    log: str,
    encoders: str,
    overrides: list[str],
    folder: str = "",
    save_at: list[int] | None = None,
    resume: str = "",
) -> dict[str, Any]:
    """Train as a Lightning script would; `folder` gets a checkpoint at some steps and at the end.

    Returns:
        `losses` of each step over all ranks, `batches`: a hash of the row numbers of each global
        batch, `rows`: all row numbers in sorted order, `metrics` and `plan`.
    """
    module, data, config = _parts(log, encoders, overrides)
    watch = Watch(folder, save_at or [])
    trainer = _trainer(
        max_epochs=config.train.epochs,
        precision=config.train.precision,
        callbacks=[watch],
    )
    trainer.fit(module, data, ckpt_path=resume or None)
    if folder:
        trainer.save_checkpoint(f"{folder}/end")
    return {
        "losses": watch.losses,
        "batches": [
            hashlib.sha256(np.sort(rows).tobytes()).hexdigest()[:16] for rows in watch.rows
        ],
        "rows": sorted(int(row) for rows in watch.rows for row in rows),
        "metrics": _numbers(trainer.callback_metrics),
        "plan": module.plan_text,
    }


def validate(
    log: str, encoders: str, overrides: list[str], resume: str, path: str
) -> dict[str, float | None]:
    """Metrics of a checkpoint on some rows."""
    module, data, _ = _parts(log, encoders, overrides)
    trainer = _trainer()
    trainer.test(module, data.loader(path, batch_size=64), ckpt_path=resume, verbose=False)
    return _numbers(trainer.callback_metrics)


def predict(
    log: str, encoders: str, overrides: list[str], resume: str, path: str, folder: str
) -> None:
    """Predictions of a checkpoint as `FOLDER/predicted.npy`, and what was loaded saved again."""
    module, data, _ = _parts(log, encoders, overrides)
    trainer = _trainer()
    found = trainer.predict(module, data.loader(path, batch_size=64), ckpt_path=resume)
    assert found is not None
    whole = [_from_all(part) for part in found]
    trainer.save_checkpoint(f"{folder}/again", weights_only=True)
    if trainer.is_global_zero:
        rows = open_log(path, base=Path(log)).num_rows
        np.save(f"{folder}/predicted.npy", torch.cat(whole)[:rows].numpy())


def predict_plainly(
    log: str, encoders: str, overrides: list[str], resume: str, path: str, folder: str
) -> None:
    """Like `predict`, with torch and safetensors alone."""
    config, fitted = load_spec(f"{log}/spec.yaml", overrides), Encoders.load(encoders)
    tables = checkpoint.load_full(Path(resume), "tables/", "/weight")
    lookup = PlainLookup(layout(config, fitted.tables, fitted.single, fitted.bags), tables)
    net = build_net(config, config.tower, fitted, lookup)
    net.load_dense(checkpoint.load_full(Path(resume), "net/"))
    tasks = build_tasks(config, config.objective.kind, config.train.normalize, fitted)
    batches = batches_in_order(open_log(path, base=Path(log)), fitted, batch_size=64, labels=False)
    with torch.inference_mode():
        whole = [tasks.probs(net.eval()(batch)) for batch in batches]
    np.save(f"{folder}/predicted.npy", torch.cat(whole).numpy())


class Watch(Callback):
    """Loss and rows of each global batch; a checkpoint at some steps."""

    def __init__(self, folder: str, save_at: list[int]) -> None:
        self.folder, self.save_at = folder, save_at
        self.losses: list[float] = []
        self.rows: list[np.ndarray] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach().double() / trainer.world_size
        dist.all_reduce(loss)
        self.losses.append(float(loss))
        rows = _from_all(batch.rows_B).numpy()
        self.rows.append(rows[rows >= 0])
        if trainer.global_step in self.save_at:
            trainer.save_checkpoint(f"{self.folder}/at-{trainer.global_step}")


def _parts(
    log: str, encoders: str, overrides: list[str]
) -> tuple[MultiTaskModule, ClickLogDataModule, RunConfig]:
    config, fitted = load_spec(f"{log}/spec.yaml", overrides), Encoders.load(encoders)
    return (
        MultiTaskModule(config, fitted),
        ClickLogDataModule(config, fitted, data_dir=log),
        config,
    )


def _trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        strategy=TorchRecStrategy(),
        accelerator="cpu",
        devices=dist.get_world_size(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def _from_all(part: torch.Tensor) -> torch.Tensor:
    """The parts of all ranks, equally long, one below the other."""
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)


def _numbers(metrics: Any) -> dict[str, float | None]:
    found = {key: float(value) for key, value in metrics.items()}
    return {key: value if np.isfinite(value) else None for key, value in found.items()}


def train_tables(folder: str, sharding: str, given: str = "") -> dict[str, Any]:
    """Three steps, saved as `FOLDER/trained`; `given` is loaded and saved as `FOLDER/again`.

    Returns:
        `logits` of 16 rows after loading, and what `failures` this rank sees.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    lookup = ShardedLookup(world_layout(), EmbeddingConfig(lr=0.1), seed=3)
    net = build_net(SPEC, TOWER, ENCODERS, lookup, seed=3)
    size = _GLOBAL_ROWS // world_size
    parallel = shard(net, "cpu", batch_size=size, sharding=dict.fromkeys(ROWS, sharding)).net
    tasks = build_tasks(SPEC, "entire_space", "rows", ENCODERS)
    dense = [p for n, p in parallel.named_parameters() if "collection" not in n]
    optimizer = torch.optim.SGD(dense, lr=0.1)
    for step in range(3):
        batch = to_batch(random_rows(_GLOBAL_ROWS, seed=step), seed=step)
        mine = batch.select(torch.arange(rank, _GLOBAL_ROWS, world_size))
        optimizer.zero_grad()
        logits_BH, squares_B = parallel(mine, squares=True)
        total = torch.tensor(float(_GLOBAL_ROWS) / world_size)
        terms = tasks.loss(logits_BH, mine.labels_BK, mine.weight_B, total_weight=total)
        (terms.total + 0.1 * squares_B.sum() / total).backward()
        optimizer.step()
    tensors = {f"net/{name}": tensor for name, tensor in net.dense_tensors().items()}
    tensors |= lookup.tensors()
    checkpoint.save(Path(folder, "trained"), tensors, {"world_size": world_size})
    if given:
        checkpoint.load_into(Path(given), tensors)
        checkpoint.save(Path(folder, "again"), tensors, None)
    else:
        checkpoint.load_into(Path(folder, "trained"), tensors)
    problem = SpecError("rank 1") if rank == 1 else None
    return {
        "logits": parallel(to_batch(random_rows(16, seed=9))).tolist(),
        "failures": [
            _failure(lambda: agree(problem, "p", what="plans")),
            _failure(lambda: agree(None, f"plan of {rank}", what="plans")),
            _failure(lambda: checkpoint.load_into(Path(folder, "nowhere"), tensors)),
        ],
    }


def look_up_outside(sharding: str, outside: int) -> str:
    """What this rank sees of an id outside its table, which the last rank alone looks up."""
    lookup = ShardedLookup(world_layout(), EmbeddingConfig(), seed=0)
    net = build_net(SPEC, TOWER, ENCODERS, lookup)
    shard(net, "cpu", batch_size=8, sharding=dict.fromkeys(ROWS, sharding))
    batch = to_batch(random_rows(8, seed=3))
    if dist.get_rank() < dist.get_world_size() - 1:
        return "nothing"
    batch.ids_FB[0, 0] = outside
    batch.bags["tags"].values_N[0] = outside
    return _failure(lambda: lookup(batch))


def _failure(work: Callable[[], Any]) -> str:
    try:
        work()
    except RecMTLError as error:
        return str(error) if type(error) is not DataError else f"DataError: {error}"
    return "none"
