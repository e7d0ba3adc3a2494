from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from recmtl import load_spec
from recmtl._files import sha256_of
from recmtl.errors import SpecError
from recmtl.simulate import SimulationSummary, simulate

PARTS = ("train", "valid", "test")
TRUTH = {"p_ctr", "p_cvr", "conversion_potential"}
LABELS = ("click", "conversion", "conversion_potential")
GOLDEN = {
    "user_id": [100593, 103337, 100926, 103014, 104218],
    "item_id": [10909, 10044, 11081, 11108, 10372],
    "p_ctr": [
        0.05177953530924931,
        0.15539644306571782,
        0.04054997279133594,
        0.030340844660542814,
        0.02950309105584855,
    ],
    "p_cvr": [
        0.05841767006398777,
        0.12272130395723477,
        0.010318157675431018,
        0.05996730707776722,
        0.09637015601146018,
    ],
    "positives": [743, 105, 568],
}
"""Of the first five test rows, and the sums of the labels."""


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> SimulationSummary:
    return simulate(tmp_path_factory.mktemp("simulation") / "funnel", rows=60_000, seed=1)


@pytest.fixture(scope="module")
def parts(summary: SimulationSummary) -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(summary.spec.parent / f"{name}.parquet") for name in PARTS}


def test_rows_are_split_in_time(parts: dict[str, pl.DataFrame]) -> None:
    assert [parts[name].height for name in PARTS] == [48_000, 6_000, 6_000]
    assert pl.concat(parts.values())["timestamp"].is_sorted()


def test_rates_are_those_of_a_funnel(
    summary: SimulationSummary, parts: dict[str, pl.DataFrame]
) -> None:
    rows = pl.concat(parts.values())
    clicks = rows.filter(pl.col("click") == 1)
    assert summary.base_rates == pytest.approx(
        {
            "ctr": rows["click"].to_numpy().mean(),
            "cvr": clicks["conversion"].to_numpy().mean(),
            "ctcvr": rows["conversion"].to_numpy().mean(),
        }
    )
    assert 0.05 < summary.base_rates["ctr"] < 0.15
    assert 0.02 < summary.base_rates["cvr"] < 0.20


def test_bayes_auc_agrees_with_scikit_learn(
    summary: SimulationSummary, parts: dict[str, pl.DataFrame]
) -> None:
    test = parts["test"]
    p_ctr_N, p_cvr_N = test["p_ctr"].to_numpy(), test["p_cvr"].to_numpy()
    assert summary.bayes_auc == pytest.approx(
        {
            "ctr": roc_auc_score(test["click"], p_ctr_N),
            "cvr": roc_auc_score(test["conversion_potential"], p_cvr_N),
            "ctcvr": roc_auc_score(test["conversion"], p_ctr_N * p_cvr_N),
        }
    )


def test_interactions_matter(summary: SimulationSummary) -> None:
    for task, bayes in summary.bayes_auc.items():
        additive = summary.additive_auc[task]
        assert bayes is not None
        assert additive is not None
        assert bayes > additive + 0.05 > 0.6, task


def test_the_spec_is_valid_and_holds_no_truth(
    summary: SimulationSummary, parts: dict[str, pl.DataFrame]
) -> None:
    config = load_spec(summary.spec)
    features = {feature.name for feature in config.features}
    assert features < set(parts["train"].columns)
    assert not features & (TRUTH | set(config.labels))
    assert config.data.train == "train.parquet"
    assert config.data.valid == "valid.parquet"


def test_rows_and_seed_decide_everything(tmp_path: Path) -> None:
    one, two = (simulate(tmp_path / name, rows=500, seed=3) for name in ("one", "two"))
    assert one.base_rates == two.base_rates
    assert one.bayes_auc == two.bayes_auc
    for file in sorted(path.name for path in (tmp_path / "one").iterdir()):
        assert sha256_of(tmp_path / "one" / file) == sha256_of(tmp_path / "two" / file), file
    simulate(tmp_path / "two", rows=500, seed=4, overwrite=True)
    frames = [pl.read_parquet(tmp_path / name / "train.parquet") for name in ("one", "two")]
    assert not np.array_equal(frames[0]["p_ctr"], frames[1]["p_ctr"])


def test_the_summary_lies_beside_the_data(summary: SimulationSummary) -> None:
    stored = json.loads((summary.spec.parent / "simulation.json").read_text())
    assert stored == {**summary.to_dict(), "spec": "spec.yaml"}


def test_wrong_arguments_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        simulate(tmp_path / "funnel", rows=9, seed=-1, users=9, items=0, signal=10.5)
    assert str(raised.value).splitlines() == [
        "`rows` must be at least 100, got 9.",
        "`seed` must be at least 0, got -1.",
        "`users` must be at least 10, got 9.",
        "`items` must be at least 10, got 0.",
        "`signal` must be between 0 and 10, got 10.5.",
    ]
    assert not (tmp_path / "funnel").exists()


@pytest.mark.parametrize("signal", [-0.1, math.inf, math.nan])
def test_a_signal_is_a_number_of_its_range(tmp_path: Path, signal: float) -> None:
    with pytest.raises(SpecError, match=rf"`signal` must be between 0 and 10, got {signal:g}\."):
        simulate(tmp_path / "funnel", rows=100, signal=signal)


def test_users_and_items_are_as_many_as_asked_for(tmp_path: Path) -> None:
    found = simulate(tmp_path, rows=20_000, users=300, items=40, seed=2)
    log = pl.concat(pl.read_parquet(tmp_path / f"{name}.parquet") for name in PARTS)
    assert (log["user_id"].n_unique(), log["item_id"].n_unique()) == (300, 40)
    assert (found.users, found.items) == (300, 40)


def test_without_signal_nothing_is_better_than_the_additive_model(tmp_path: Path) -> None:
    found = simulate(tmp_path, rows=40_000, seed=1, users=1_000, items=400, signal=0)
    distance = distances(found)
    assert distance["ctr"] == pytest.approx(0.0, abs=0.001)
    assert distance["cvr"] == pytest.approx(0.0, abs=0.001)
    # The logarithm of a product of two sigmoids is nearly additive, no more.
    assert distance["ctcvr"] == pytest.approx(0.0, abs=0.01)
    assert found.bayes_auc["ctr"] > 0.6


def test_too_many_ids_to_fit_the_bound(tmp_path: Path) -> None:
    found = simulate(tmp_path, rows=20_000, seed=1, users=20_000, items=400)
    assert found.additive_auc == {"ctr": None, "cvr": None, "ctcvr": None}
    assert found.bayes_auc["ctr"] is not None


def test_more_signal_is_further_from_the_additive_model(tmp_path: Path) -> None:
    signals = (0.3, 1.0, 3)
    found = [
        distances(
            simulate(tmp_path / f"{s}", rows=40_000, seed=1, users=1_000, items=400, signal=s)
        )
        for s in signals
    ]
    for task in ("ctr", "cvr"):
        column = [distance[task] for distance in found]
        assert column == sorted(column)
        assert min(np.diff(column)) > 0.02, task


def distances(found: SimulationSummary) -> dict[str, float]:
    """Bayes' AUC less that of the best additive model."""
    return {task: found.bayes_auc[task] - found.additive_auc[task] for task in found.bayes_auc}


def test_a_log_is_that_of_earlier_versions(parts: dict[str, pl.DataFrame]) -> None:
    test = parts["test"]
    assert test["user_id"][:5].to_list() == GOLDEN["user_id"]
    assert test["item_id"][:5].to_list() == GOLDEN["item_id"]
    assert test["p_ctr"][:5].to_list() == pytest.approx(GOLDEN["p_ctr"], rel=1e-12)
    assert test["p_cvr"][:5].to_list() == pytest.approx(GOLDEN["p_cvr"], rel=1e-12)
    assert [test[name].sum() for name in LABELS] == GOLDEN["positives"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SpecError, match=r"holds `thesis\.tex` and no simulation"):
        simulate(tmp_path, rows=100)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    simulate(tmp_path, rows=100, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()
    simulate(tmp_path, rows=100)  # the same simulation may be made again


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "funnel").touch()
    with pytest.raises(SpecError, match=r"funnel is a file; name a folder"):
        simulate(tmp_path / "funnel", rows=100)


def test_another_simulation_or_an_edited_spec_is_left_alone(tmp_path: Path) -> None:
    simulate(tmp_path, rows=500, seed=1)
    simulate(tmp_path, rows=500, seed=1)
    with pytest.raises(SpecError, match="a simulation of 500 rows and seed 1; name another"):
        simulate(tmp_path, rows=400, seed=1)
    sizes = (
        "of 500 rows and seed 1 with 5,000 users, 2,000 items and signal 1, 30 days and drift 0;"
    )
    for change in ({"users": 50}, {"items": 50}, {"signal": 0.5}):
        with pytest.raises(SpecError, match=sizes):
            simulate(tmp_path, rows=500, seed=1, **change)
    spec = tmp_path / "spec.yaml"
    spec.write_text(spec.read_text() + "# mine")
    with pytest.raises(SpecError, match=r"a simulation whose `spec\.yaml` was edited"):
        simulate(tmp_path, rows=500, seed=1)
    simulate(tmp_path, rows=400, seed=1, overwrite=True)
    assert "# mine" not in spec.read_text()


def test_a_simulation_that_does_not_say_its_sizes_is_of_the_default_ones(tmp_path: Path) -> None:
    simulate(tmp_path, rows=500, seed=1)
    file = tmp_path / "simulation.json"
    said = json.loads(file.read_text())
    for name in ("users", "items", "signal", "days", "drift"):
        del said[name]
    file.write_text(json.dumps(said))
    with pytest.raises(SpecError, match="and signal 1, 30 days and drift 0; name another"):
        simulate(tmp_path, rows=500, seed=1, signal=2)
    simulate(tmp_path, rows=500, seed=1)
    assert json.loads(file.read_text())["signal"] == 1.0


def test_days_are_a_column_where_they_are_asked_for(tmp_path: Path) -> None:
    """And the world, the users and the items are those of the same seed without."""
    simulate(tmp_path / "plain", rows=2_000, seed=1)
    summary = simulate(tmp_path / "days", rows=2_000, seed=1, days=7)
    assert (summary.days, summary.drift) == (7, 0.0)
    plain, days = (
        pl.concat([pl.read_parquet(tmp_path / name / f"{part}.parquet") for part in PARTS])
        for name in ("plain", "days")
    )
    assert "day" not in plain.columns
    assert days.columns == [plain.columns[0], "day", *plain.columns[1:]]
    stamps = pl.from_epoch(days["timestamp"])
    assert days["day"].equals(stamps.dt.date().alias("day"))
    assert days["day"].n_unique() == 7
    said = json.loads((tmp_path / "days/simulation.json").read_text())
    assert (said["days"], said["drift"]) == (7, 0.0)
    with pytest.raises(SpecError, match="signal 1, 7 days and drift 0; name another"):
        simulate(tmp_path / "days", rows=2_000, seed=1, days=6)


def test_days_and_drift_outside_of_their_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        simulate(tmp_path / "funnel", rows=1_000, days=0, drift=-0.1)
    assert str(error.value).splitlines() == [
        "`days` must be between 1 and 3,650, got 0.",
        "`drift` must be between 0 and 1.5708, got -0.1.",
    ]


def test_a_drifting_world_has_no_additive_bound(tmp_path: Path) -> None:
    summary = simulate(tmp_path / "funnel", rows=2_000, seed=1, days=7, drift=0.2)
    assert set(summary.additive_auc.values()) == {None}
    assert summary.bayes_auc["ctr"] is not None
