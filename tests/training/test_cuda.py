"""Training on a GPU: FBGEMM's CUDA kernels, the numbers of the CPU, checkpoints that go both ways.

Tolerances: fp32 on both devices (no TF32), sums in another order, eight steps. SGD carries the
difference on as it is, so it is compared tightly; Adam divides by its own size what is next to
nothing, so its losses are compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close

from recmtl import api
from recmtl.batch import Batch
from recmtl.checkpoint import load_full
from recmtl.config import load_spec
from recmtl.data import Encoders
from recmtl.embeddings import PlainLookup, layout
from recmtl.models import build_net
from recmtl.training import fit
from recmtl.training.to_device import on_cuda
from tests.training.tools import At, Watch, crash, last_tensors, tensors

pytestmark = pytest.mark.gpu

Make = Callable[..., Any]
TOWERS = ("mmoe", "ple", "cgc", "esmm", "shared_bottom")
STEPS = 8
TIGHT = {"rtol": 1e-3, "atol": 1e-5}


class Losses(Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.values.append(float(outputs["loss"]))


def train_on(
    device: str, make: Make, trainer: Make, *overrides: str, **options: Any
) -> tuple[dict[str, torch.Tensor], list[float], Any]:
    """Tensors after some steps, on the CPU; the loss of each step; the module."""
    module, data = make(*overrides)
    losses = Losses()
    fitted = trainer(accelerator=device, **{"max_steps": STEPS, "callbacks": [losses], **options})
    fitted.fit(module, data)
    found = {key: tensor.cpu() for key, tensor in tensors(fitted).items()}
    return found, losses.values, module


def leave_group() -> None:
    """The next trainer makes a group of its own device."""
    if dist.is_initialized():
        dist.destroy_process_group()


def both(
    make: Make, trainer: Make, *overrides: str
) -> Iterator[tuple[dict[str, torch.Tensor], list[float], Any]]:
    for device in ("gpu", "cpu"):
        yield train_on(device, make, trainer, *overrides)
        leave_group()


def test_tables_live_on_the_gpu_and_its_kernels_look_up_and_update(
    make: Make, trainer: Make
) -> None:
    module, data = make()
    fitted = trainer(accelerator="gpu", max_steps=3)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        fitted.fit(module, data)
    assert dist.get_backend() == "nccl"
    assert all(tensor.is_cuda for tensor in tensors(fitted).values() if tensor.dim())
    kernels = {e.name for e in recorded.events() if e.device_type == torch.autograd.DeviceType.CUDA}
    embedding = [name for name in kernels if "embedding" in name]
    assert any(re.search("split_embedding.*forward", name) for name in embedding), kernels
    assert any(
        re.search("rowwise_adagrad.*backward|backward.*rowwise_adagrad", name) for name in embedding
    )
    assert not any("embedding_dense_backward" in name for name in kernels)


@pytest.mark.parametrize("tower", TOWERS)
def test_every_tower_trains_as_on_the_cpu(tower: str, make: Make, trainer: Make) -> None:
    sgd = ("train.optimizer=sgd", "train.lr=0.1", "train.embedding.optimizer=sgd")
    (found, losses, _), (expected, plain, _) = both(make, trainer, f"tower={tower}", *sgd)
    assert_close(losses, plain, rtol=1e-4, atol=1e-5)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert_close(found[key], tensor, **TIGHT)


@pytest.mark.parametrize("tables", ["rowwise_adagrad", "adagrad", "sgd"])
@pytest.mark.parametrize("dense", ["adam", "adamw", "adagrad", "sgd"])
def test_every_optimizer_trains_as_on_the_cpu(
    tables: str, dense: str, make: Make, trainer: Make
) -> None:
    overrides = (f"train.embedding.optimizer={tables}", f"train.optimizer={dense}")
    (_, losses, _), (_, plain, _) = both(make, trainer, *overrides)
    assert len(losses) == STEPS
    assert_close(losses, plain, rtol=1e-3, atol=1e-4)


def test_l2_and_weights_and_observed_rows_are_those_of_the_cpu(make: Make, trainer: Make) -> None:
    overrides = ("train.embedding.l2=0.1", "train.normalize=observed", "train.clip=0.5")
    (_, losses, _), (_, plain, _) = both(make, trainer, *overrides)
    assert_close(losses, plain, rtol=1e-3, atol=1e-4)


def test_adam_moves_the_rows_of_a_batch_by_the_learning_rate_at_first(
    make: Make, trainer: Make
) -> None:
    lr = 0.01
    overrides = ("train.embedding.optimizer=adam", f"train.embedding.lr={lr}")
    module, data = make(*overrides)
    watch = Watch()
    fitted = trainer(accelerator="gpu", max_steps=1, callbacks=[watch])
    fitted.fit(module, data)
    end = tensors(fitted)
    key = "tables/user/weight"
    moved_RE = (end[key] - watch.start[key]).abs().cpu()
    rows = set(watch.batch.ids_FB[0].tolist())  # `user` is the first single-valued feature
    assert {row for row in range(len(moved_RE)) if bool(moved_RE[row].any())} == rows
    touched_RE = moved_RE[sorted(rows)]
    assert float(touched_RE.max()) <= lr * 1.001
    assert float(touched_RE.median()) == pytest.approx(lr, rel=0.01)  # g / |g|, but for eps
    states = {name.rpartition("/")[2] for name in end if name.startswith("tables/user/optimizer/")}
    assert len(states) == 2


def test_adam_on_tables_learns(make: Make, trainer: Make) -> None:
    _, losses, _ = train_on(
        "gpu",
        make,
        trainer,
        "train.embedding.optimizer=adam",
        "train.embedding.lr=0.01",
        max_steps=40,
        max_epochs=4,
    )
    assert sum(losses[-5:]) < sum(losses[:5])


def test_bf16_is_close_and_leaves_tables_in_fp32(make: Make, trainer: Make) -> None:
    found, losses, _ = train_on("gpu", make, trainer, precision="bf16-mixed")
    leave_group()
    _, plain, _ = train_on("gpu", make, trainer)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert losses != plain
    assert_close(losses, plain, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["graphs", "compile"])
@pytest.mark.parametrize("tower", TOWERS)
def test_graphs_and_compiled_towers_train_as_plain_ones(
    tower: str, kind: str, precision: str, make: Make, trainer: Make
) -> None:
    said: list[str] = []
    ends = []
    for how in (kind, "none"):
        module, data = make(f"tower={tower}", f"train.compile={how}", "train.optimizer=sgd")
        module.notify = said.append
        losses = Losses()
        fitted = trainer(
            accelerator="gpu", max_steps=STEPS, precision=precision, callbacks=[losses]
        )
        fitted.fit(module, data)
        ends.append((tensors(fitted), losses.values))
        leave_group()
    assert said == []
    (found, losses), (expected, plain) = ends
    assert found.keys() == expected.keys()
    loose = {"rtol": 0.02, "atol": 0.01} if precision == "bf16-mixed" else TIGHT
    assert_close(losses, plain, **loose)
    for key, tensor in expected.items():
        assert_close(found[key], tensor, **loose)


def test_a_checkpoint_of_a_gpu_is_used_on_a_cpu(
    make: Make, trainer: Make, encoders: Encoders, log_dir: Path, tmp_path: Path
) -> None:
    module, data = make()
    fitted = trainer(accelerator="gpu", max_steps=STEPS)
    fitted.fit(module, data)
    fitted.save_checkpoint(tmp_path / "ck")
    batch = next(iter(data.loader("valid.parquet", batch_size=256)))
    expected = module(batch.to("cuda")).cpu()
    found = load_full(tmp_path / "ck")
    assert {tensor.device.type for tensor in found.values()} == {"cpu"}
    tables = layout(module.config, encoders.tables, encoders.single, encoders.bags)
    weights = {name: found[f"tables/{name}/weight"] for name in encoders.tables}
    net = build_net(module.config, module.config.tower, encoders, PlainLookup(tables, weights))
    net.load_dense({k.removeprefix("net/"): t for k, t in found.items() if k.startswith("net/")})
    assert_close(module.tasks.cpu().probs(net(batch)), expected, rtol=1e-4, atol=1e-6)
    leave_group()
    module, data = make()
    trainer(max_steps=STEPS + 2, max_epochs=3).fit(module, data, ckpt_path=tmp_path / "ck")
    assert module.trainer.global_step == STEPS + 2


@pytest.mark.parametrize("kind", ["none", "graphs"])
def test_an_interrupted_run_ends_where_a_whole_one_does(
    kind: str, encoders: Encoders, log_dir: Path, tmp_path: Path
) -> None:
    config = load_spec(log_dir / "spec.yaml", [f"train.compile={kind}"])

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(config, encoders, data_dir=log_dir, folder=whole)
    with pytest.raises(OSError, match="gone"):
        fit(config, encoders, data_dir=log_dir, folder=parts, progress=At(crash, step=7))
    fit(config, encoders, data_dir=log_dir, folder=parts)
    found, expected = last_tensors(parts), last_tensors(whole)
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def test_a_run_is_trained_evaluated_and_scored(log_dir: Path, tmp_path: Path) -> None:
    api.train(log_dir / "spec.yaml", out=tmp_path / "run")
    assert "cuda" in (tmp_path / "run" / "plan.txt").read_text()
    api.score(tmp_path / "run", log_dir / "valid.parquet", tmp_path / "scores")
    assert list((tmp_path / "scores").glob("*.parquet"))


def test_batches_arrive_in_order_and_whole_while_the_gpu_is_busy(make: Make, trainer: Make) -> None:
    module, data = make()
    trainer(max_steps=1).fit(module, data)
    expected = list(data.loader("train.parquet", batch_size=100))
    busy_DD = torch.randn(4096, 4096, device="cuda")
    sums = []
    for batch in on_cuda(iter(expected), torch.device("cuda", torch.cuda.current_device())):
        for _ in range(20):
            busy_DD = (busy_DD @ busy_DD).clamp(-1, 1)
        sums.append(batch.each(lambda tensor: tensor.double().nansum()))  # after all of this
        del batch
    assert len(sums) == len(expected)
    for found, batch in zip(sums, expected, strict=True):
        _assert_same(found, batch.each(lambda tensor: tensor.double().nansum()))


def _assert_same(found: Batch, expected: Batch) -> None:
    for name in ("ids_FB", "dense_DB", "labels_BK", "weight_B", "rows_B"):
        assert_close(getattr(found, name).cpu(), getattr(expected, name), rtol=1e-9, atol=1e-9)
    for name, column in expected.bags.items():
        assert torch.equal(found.bags[name].values_N.cpu(), column.values_N)
    for name, column in expected.sequences.items():
        assert torch.equal(found.sequences[name].values_N.cpu(), column.values_N)
