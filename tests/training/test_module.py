"""MultiTaskModule: its loss, its metrics, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars
import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from sklearn.metrics import log_loss, roc_auc_score
from torch.testing import assert_close

from recmtl.config import RunConfig, TrainConfig, load_spec
from recmtl.data import Encoders
from recmtl.embeddings import PlainLookup, layout
from recmtl.errors import SpecError
from recmtl.models import build_net
from recmtl.spec import Spec
from recmtl.towers import PLEConfig
from recmtl.training import MultiTaskModule
from recmtl.training.refusals import trainer_problems
from tests.training.tools import Watch, tensors

Make = Callable[..., Any]


def trained(
    make: Make, trainer: Make, *overrides: str, **options: Any
) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A module after some steps, a batch of validation rows, and its tensors."""
    module, data = make(*overrides)
    fitted = trainer(**{"max_steps": 4, **options})
    fitted.fit(module, data)
    batch = next(iter(data.loader("valid.parquet", batch_size=256)))
    return module, batch, tensors(fitted)


def plain_net(module: Any, found: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The same net on plain tables."""
    encoders = module.encoders
    tables = layout(module.config, encoders.tables, encoders.single, encoders.bags)
    weights = {name: found[f"tables/{name}/weight"] for name in encoders.tables}
    net = build_net(module.config, module.config.tower, encoders, PlainLookup(tables, weights))
    net.load_dense({k.removeprefix("net/"): t for k, t in found.items() if k.startswith("net/")})
    return net


def test_loss_of_bare_wrapped_and_compiled_net_is_the_same_pitfall_T15(
    make: Make, trainer: Make
) -> None:
    module, batch, found = trained(make, trainer)
    wrapped = module.loss_terms(batch).total
    bare = plain_net(module, found)
    for net in (bare, torch.compile(bare, backend="eager")):
        loss = module.tasks.loss(net(batch), batch.labels_BK, batch.weight_B).total
        assert_close(loss, wrapped, rtol=1e-6, atol=1e-7)


def test_gradient_does_not_change_when_the_batch_is_duplicated_pitfall_T24(
    make: Make, trainer: Make
) -> None:
    module, batch, _ = trained(make, trainer)
    twice = batch.select(torch.arange(len(batch)).repeat(2))
    assert_close(
        module.loss_terms(twice).total, module.loss_terms(batch).total, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("normalize", ["rows", "observed"])
def test_a_batch_without_clicks_trains_on_pitfall_T21(
    normalize: str, make: Make, trainer: Make
) -> None:
    module, batch, before = trained(make, trainer, f"train.normalize={normalize}")
    terms = module.loss_terms(replace(batch, labels_BK=torch.zeros_like(batch.labels_BK)))
    terms.total.backward()
    assert terms.by_task["cvr"] == 0
    gradients = [p.grad for name, p in module.net.named_parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    after = tensors(module.trainer)["tables/user/weight"]
    assert bool(after.isfinite().all())
    assert not torch.equal(after, before["tables/user/weight"])


def test_a_task_of_weight_zero_does_not_move_its_head_pitfall_T23(
    config: RunConfig, encoders: Encoders, make: Make, trainer: Make
) -> None:
    ctr, cvr, ctcvr = config.tasks
    changed = config.model_copy(
        update={"tasks": (ctr, cvr.model_copy(update={"weight": 0.0}), ctcvr)}
    )
    watch = Watch()
    fitted = trainer(callbacks=[watch])
    fitted.fit(MultiTaskModule(changed, encoders), make()[1])
    end = tensors(fitted)
    heads = [key for key in end if key.startswith("net/tower.heads") and "cvr" in key]
    assert heads
    assert [key for key in heads if not torch.equal(end[key], watch.start[key])] == []


def test_l2_moves_tables_by_its_closed_form(make: Make, trainer: Make) -> None:
    lr, l2, ends = 0.5, 0.7, {}
    for penalty in (0.0, l2):
        overrides = (
            "train.embedding.optimizer=sgd",
            f"train.embedding.lr={lr}",
            f"train.embedding.l2={penalty}",
        )
        module, data = make(*overrides, "train.embedding.init_scale=0.3")
        watch = Watch()
        fitted = trainer(max_steps=1, callbacks=[watch])
        fitted.fit(module, data)
        ends[penalty] = tensors(fitted)["tables/user/weight"]
    batch, start_VE = watch.batch, watch.start["tables/user/weight"]
    user_B = batch.ids_FB[module.encoders.single.index("user")]
    share_V = torch.zeros(len(start_VE), dtype=torch.float64)
    share_V.index_add_(0, user_B, batch.weight_B.double() / batch.weight_B.double().sum())
    expected_VE = -lr * l2 * share_V.unsqueeze(1) * start_VE.double()
    assert expected_VE.abs().max() > 1e-3
    assert_close((ends[l2] - ends[0.0]).double(), expected_VE, rtol=1e-4, atol=1e-7)


def test_prior_moves_tables_by_its_closed_form(make: Make, trainer: Make) -> None:
    lr, prior, ends = 0.5, 40.0, {}
    for precision in (0.0, prior):
        overrides = (
            "train.embedding.optimizer=sgd",
            f"train.embedding.lr={lr}",
            f"train.embedding.prior={precision}",
            "train.embedding.init_scale=0.3",
        )
        module, data = make(*overrides)
        watch = Watch()
        fitted = trainer(max_steps=1, callbacks=[watch])
        fitted.fit(module, data)
        ends[precision] = tensors(fitted)
    batch, names = watch.batch, module.encoders.single
    share_B = (batch.weight_B > 0).double() / batch.weight_B.double().sum()
    for table in ("user", "item"):
        start_VE = watch.start[f"tables/{table}/weight"]
        counts_V = torch.tensor(module.encoders.counts(table).tolist()).clamp(min=1)
        share_V = torch.zeros(len(start_VE), dtype=torch.float64)
        share_V.index_add_(0, batch.ids_FB[names.index(table)], share_B)
        expected_VE = -lr * prior * (share_V / counts_V).unsqueeze(1) * start_VE.double()
        assert expected_VE.abs().max() > 1e-3
        moved_VE = ends[prior][f"tables/{table}/weight"] - ends[0.0][f"tables/{table}/weight"]
        assert_close(moved_VE.double(), expected_VE, rtol=1e-4, atol=1e-6)


def test_clip_bounds_the_norm_of_dense_gradients_alone(make: Make, trainer: Make) -> None:
    norms = []

    class Norms(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            pl_module.configure_gradient_clipping(optimizer)
            gradients = [p.grad for p in optimizer.param_groups[1]["params"]]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    trained(make, trainer, "train.clip=0.001", callbacks=[Norms()])
    assert len(norms) == 4
    assert max(norms) == pytest.approx(0.001, rel=1e-3)


def test_metrics_equal_scikit_learns_on_each_population(
    make: Make, trainer: Make, log_dir: Path
) -> None:
    module, data = make()
    fitted = trainer()
    fitted.fit(module, data)
    found = fitted.callback_metrics
    frame = polars.read_parquet(log_dir / "valid.parquet")
    with torch.no_grad():
        probs = np.concatenate(
            [module(batch).numpy() for batch in data.loader("valid.parquet", batch_size=99)]
        )
    click, buy, weight = (frame[name].to_numpy() for name in ("click", "buy", "weight"))
    for t, name, label, rows in (
        (0, "ctr", click, click >= 0),
        (1, "cvr", buy, click == 1),
        (2, "ctcvr", buy, click >= 0),
    ):
        about = {"sample_weight": weight[rows]}
        assert float(found[f"valid/{name}/n"]) == rows.sum()
        assert float(found[f"valid/{name}/auc"]) == pytest.approx(
            roc_auc_score(label[rows], probs[rows, t], **about), abs=1e-6
        )
        assert float(found[f"valid/{name}/logloss"]) == pytest.approx(
            log_loss(label[rows], probs[rows, t], **about), abs=1e-6
        )
    ios = frame["device"].to_numpy() == "ios"
    expected = roc_auc_score(click[ios], probs[ios, 0], sample_weight=weight[ios])
    assert float(found["valid/device=ios/ctr/auc"]) == pytest.approx(expected, abs=1e-6)
    assert found["valid/ctr/gauc"].isfinite()


def test_predict_gives_every_row_of_the_log_in_order(make: Make, trainer: Make) -> None:
    module, batch, _ = trained(make, trainer)
    loader = make()[1].loader("valid.parquet", batch_size=256)
    first, second = trainer().predict(module, loader)
    assert (len(first), len(second)) == (256, 244)
    with torch.no_grad():
        assert torch.equal(first, module(batch))


def test_bf16_keeps_tables_in_float32(make: Make, trainer: Make) -> None:
    _, _, found = trained(make, trainer, "train.precision=bf16-mixed", precision="bf16-mixed")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_on_a_cpu_that_lacks_it_is_told(
    make: Make, trainer: Make, has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"avx512_bf16": has_bf16, "avx512_vnni": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: names)
    module, data = make("train.precision=bf16-mixed")
    said: list[str] = []
    module.notify = said.append
    trainer(max_steps=1, precision="bf16-mixed").fit(module, data)
    assert [text.split(":")[0] for text in said] == ([] if has_bf16 else ["train.precision"])


def test_sections_replace_those_of_the_config(config: RunConfig, encoders: Encoders) -> None:
    spec = Spec(**{name: getattr(config, name) for name in Spec.model_fields})
    module = MultiTaskModule(spec, encoders, tower=PLEConfig(), train=TrainConfig(lr=0.5))
    assert (module.config.tower.kind, module.train_config.lr) == ("ple", 0.5)
    assert MultiTaskModule(config, encoders, tower=PLEConfig()).train_config == config.train
    with pytest.raises(SpecError, match="tower: the spec has no such section"):
        MultiTaskModule(spec, encoders)


def test_encoders_of_another_spec_are_refused(config: RunConfig, encoders: Encoders) -> None:
    with pytest.raises(SpecError, match="fitted for other features"):
        MultiTaskModule(config.model_copy(update={"features": config.features[:2]}), encoders)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16-true"}, r"must be `32-true` or `bf16-mixed`, got `bf16-true`"),
        ({"precision": "64-true"}, r"got `64-true`: tables are stored and updated in fp32"),
        ({"accumulate_grad_batches": 2}, r"accumulate_grad_batches: must be 1"),
        (
            {"callbacks": [GradientAccumulationScheduler({0: 2})]},
            r"accumulate_grad_batches: must be 1",
        ),
        (
            {"callbacks": [StochasticWeightAveraging(0.1)]},
            r"StochasticWeightAveraging: it would average",
        ),
        (
            {"strategy": "auto"},
            r"strategy: got `SingleDeviceStrategy`.*Pass `Trainer\(strategy=recmtl",
        ),
        ({"strategy": "ddp"}, r"strategy: got `DDPStrategy`"),
    ],
)
def test_what_would_be_silently_wrong_is_refused_pitfall_T29(
    options: dict[str, Any], message: str, make: Make, trainer: Make
) -> None:
    with pytest.raises(SpecError, match=message):
        trainer(**options).fit(*make())


def test_fp16_loss_scaling_is_refused_pitfall_T28() -> None:
    asked = SimpleNamespace(
        precision="16-mixed", callbacks=[], accumulate_grad_batches=1, gradient_clip_val=None
    )
    (problem,) = trainer_problems(asked, TrainConfig(), automatic=True)  # type: ignore[arg-type]  # on CPU Lightning changes it
    assert "scaled fp16 gradients would reach the tables unscaled" in problem


def test_batch_norm_over_several_processes_is_refused() -> None:
    asked = SimpleNamespace(
        precision="32-true",
        callbacks=[],
        accumulate_grad_batches=1,
        gradient_clip_val=None,
        world_size=2,
    )
    (problem,) = trainer_problems(asked, TrainConfig(), automatic=True, has_batch_norm=True)  # type: ignore[arg-type]
    assert problem.startswith("tower.norm: `batch` would take the mean of each of 2 processes'")
    assert not trainer_problems(asked, TrainConfig(), automatic=True)  # type: ignore[arg-type]


def test_another_number_of_devices_than_the_trainers_is_refused(make: Make, trainer: Make) -> None:
    with pytest.raises(SpecError, match=r"train\.devices is 2 and the Trainer has 1\. Pass"):
        trainer().fit(*make("train.devices=2"))


def test_all_reasons_are_given_at_once(make: Make, trainer: Make) -> None:
    wrong = trainer(accumulate_grad_batches=2, gradient_clip_val=3.0)
    with pytest.raises(
        SpecError, match=r"(?s)precision: .*accumulate_grad_batches: .*gradient_clip_val: "
    ):
        wrong.fit(*make("train.precision=bf16-mixed", "train.clip=1.0"))


def test_manual_optimization_is_refused(
    config: RunConfig, encoders: Encoders, make: Make, trainer: Make
) -> None:
    module = MultiTaskModule(config, encoders)
    module.automatic_optimization = False
    with pytest.raises(
        SpecError, match="automatic_optimization=False: tables are updated in each backward"
    ):
        trainer().fit(module, make()[1])


def test_parameters_outside_the_net_are_refused(
    config: RunConfig, encoders: Encoders, make: Make, trainer: Make
) -> None:
    module = MultiTaskModule(config, encoders)
    module.extra = torch.nn.Linear(1, 1)
    with pytest.raises(SpecError, match=r"`extra.weight`, `extra.bias`\) would not be averaged"):
        trainer().fit(module, make()[1])


def test_adam_on_tables_needs_cuda(make: Make, trainer: Make) -> None:
    with pytest.raises(SpecError, match="`adam` has no fused kernel on cpu"):
        trainer().fit(*make("train.embedding.optimizer=adam"))


def test_a_loss_that_is_no_number_stops_training(make: Make, trainer: Make) -> None:
    with pytest.raises(SpecError, match="no longer a finite number at step"):
        trainer(log_every_n_steps=1).fit(*make("train.optimizer=sgd", "train.lr=1e30"))


def test_the_device_is_that_of_the_net(make: Make, trainer: Make) -> None:
    module, _, _ = trained(make, trainer)
    assert module.device.type == "cpu"
    module.net.module.tower.to("meta")
    assert module.device.type == "meta"


def test_a_spec_file_is_enough(log_dir: Path, encoders: Encoders) -> None:
    assert MultiTaskModule(load_spec(log_dir / "spec.yaml"), encoders).net is None
