"""The public names, frozen: adding one is a decision, removing one needs a deprecation first."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

import recmtl

ROOT = Path(__file__).parents[1]

PUBLIC = {
    "recmtl": """
        BatchScorer ClickLogDataModule Encoders MultiTaskModule RunConfig Spec TorchRecStrategy
        TrainResult __version__ backtest compare diff evaluate explain export load_export load_spec
        parity save_run score train tune verify
    """,
    "recmtl.errors": "CheckpointError DataError MissingExtraError RecMTLError SpecError",
    "recmtl.towers": """
        BiInteraction BiInteractionConfig CGC CGCConfig CrossNet CrossNetConfig DTRN DTRNConfig
        ESMM ESMMConfig ExpertRef FM FMConfig FwFM FwFMConfig HoME HoMEConfig InputDims
        InteractionConfig Linear LinearConfig MMoE MMoEConfig MaskNet MaskNetConfig NoneConfig PLE
        PLEConfig SharedBottom SharedBottomConfig Stack StackConfig TOWERS TargetAttention
        TaskSlot Tower TowerConfig TowerInput WideConfig build_tower requires_of task_slots
    """,
    "recmtl.losses": """
        binary_nll joint_likelihood log1mexp multiclass_nll product_log_odds product_log_prob
        product_nll squared_error
    """,
    "recmtl.tasks": "Calibrator LossTerms TaskDef TaskSet Thinning",
    "recmtl.metrics": """
        ClassSums ClassTable GroupedAUC Histogram Reliability accuracy auc class_table ece gauc
        group_codes logloss mae multiclass_logloss multiclass_ne ne pcoc reliability_bins rmse
        score_histogram segment_metrics task_metrics
    """,
    "recmtl.testing": "assert_tower_ok",
    "recmtl.batch": "Batch Ragged",
    "recmtl.spec": """
        DataSpec DenseFeature Feature Problem Sample SequenceFeature SparseFeature Spec
        SplitByKey SplitByTime StrictModel Task Thinned VectorFeature Vocab load_yaml parse_yaml
    """,
    "recmtl.config": """
        ObjectiveConfig RunConfig SequenceConfig TrainConfig differences dump_yaml fingerprint
        json_schema load_spec
    """,
    "recmtl.data": """
        EncodeCounts Encoders FeatureCounts Log Population RowGroup Splits TrainStreams
        batches_in_order check_columns open_log open_splits pad_to
    """,
    "recmtl.embeddings": "EmbeddingConfig Layout PlainLookup Table layout",
    "recmtl.models": """
        MultiTaskNet TowerInputs build_net build_tasks input_dims outcome_metrics reads_items
    """,
    "recmtl.scoring": "BatchScorer ScoreResult evaluate score",
    "recmtl.exporting": "ExportResult ExportedScorer export_run verify_export",
    "recmtl.training": """
        ClickLogDataModule MultiTaskModule TorchRecStrategy TrainResult fit require_loggers save_run
    """,
    "recmtl.simulate": "SimulationSummary simulate",
    "recmtl.analysis": "Analysis analyse calibrate explain parity",
    "recmtl.report": "Report make_report summarise write_report",
    "recmtl.doctor": (
        "Finding encode_all examine exit_code guess_spec require_healthy require_model"
    ),
    "recmtl.api": "evaluate explain export load_export score train verify",
    "recmtl.studies": "backtest compare diff tune",
    "recmtl.cli": "main",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_are_frozen(package: str) -> None:
    assert sorted(importlib.import_module(package).__all__) == PUBLIC[package].split()


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_exist(package: str) -> None:
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_lazy_names_are_listed_and_kept() -> None:
    assert set(recmtl.__all__) <= set(dir(recmtl))
    assert recmtl.load_spec is recmtl.__dict__["load_spec"]


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module `recmtl` has no attribute `nothing`$"):
        _ = recmtl.nothing  # type: ignore[attr-defined]


def test_changelog_has_a_place_for_what_comes_next() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_version_is_one_number() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "recmtl/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", recmtl.__version__)
