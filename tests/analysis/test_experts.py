"""Health of experts and gates, against loops in numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from recmtl import api
from recmtl.analysis.experts import ExpertSums, GateSums, _level, _Place, expert_health
from recmtl.analysis.rows import read_sample, validation_log
from recmtl.batch import Batch
from recmtl.run import Run
from recmtl.scoring import BatchScorer
from recmtl.towers.tower import expert_statistics


def effective(shares: np.ndarray) -> float:
    """Exponential of the entropy, in a loop."""
    total = sum(shares)
    entropy = 0.0
    for share in shares:
        if share > 0:
            entropy -= share / total * math.log(share / total)
    return math.exp(entropy)


def sample(run: Path, rows: int = 1500) -> tuple[BatchScorer, Batch]:
    scorer = BatchScorer(run, keep=())
    opened = Run(run)
    return scorer, read_sample(validation_log(opened), scorer.encoders, rows, labels=False)


def test_sums_of_a_gate_are_those_of_loops() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet([0.3] * 4, 50)
    weights[:, 2] = 0
    gate = GateSums()
    for part in (slice(0, 1), slice(1, 37), slice(37, 50)):
        gate.add(torch.from_numpy(weights[part]))
    found = gate.numbers()
    assert found["mean"] == pytest.approx(weights.mean(axis=0))
    assert found["reads"] == 3
    assert found["effective"]["of_means"] == pytest.approx(effective(weights.mean(axis=0)))
    assert found["effective"]["of_rows"] == pytest.approx(np.mean([effective(w) for w in weights]))
    assert found["deviation"] == pytest.approx(weights.std(axis=0).max())


def test_weights_that_do_not_sum_to_one_are_shares_too() -> None:
    gate = GateSums()
    gate.add(torch.tensor([[0.2, 0.2], [0.0, 0.0]]))
    assert gate.numbers()["effective"] == {"of_means": pytest.approx(2.0), "of_rows": 1.0}


def test_sums_of_experts_are_those_of_all_rows_at_once() -> None:
    output = torch.randn(60, 3, 5, generator=torch.Generator().manual_seed(0)).double().relu()
    output[:, 2] = 0
    sums = ExpertSums()
    for part in (output[:7], output[7:60]):
        found = expert_statistics(part)
        sums.add(len(part), *(found[f"experts/{name}"] for name in ("mean", "std", "zero_share")))
    numbers, array = sums.numbers(), output.numpy()
    assert numbers["mean"] == pytest.approx(array.mean(axis=(0, 2)))
    assert numbers["std"] == pytest.approx(array.std(axis=(0, 2)))
    assert numbers["zero_share"] == pytest.approx((array == 0).mean(axis=(0, 2)))
    assert numbers["spread_ratio"] is None  # the third one does not vary
    other = ExpertSums()
    other.add(2, torch.zeros(2), torch.tensor([0.5, 2.0]), torch.zeros(2))
    assert other.numbers()["spread_ratio"] == pytest.approx(4.0)


def test_groups_self_gates_and_levels_are_told_apart(home_run: Path) -> None:
    scorer, batch = sample(home_run, 300)
    levels, refinement = expert_health(scorer.net, batch)
    assert refinement == {}
    first, second = levels
    assert list(first["gates"]) == ["act", "buy", "shared gate"]
    assert list(first["own"]) == ["self gate of act", "self gate of buy", "shared self gate"]
    assert all(name.startswith("group act") for name in first["own"]["self gate of act"])
    assert all(name.startswith("shared") for name in first["own"]["shared self gate"])
    assert list(second["gates"]) == ["ctr", "cvr"]
    assert set(second["own"]["self gate of ctr"]) <= set(second["experts"])
    explained = scorer.net.explain(batch)
    for gate in ("act", "buy"):
        expected = explained[f"level_1/gates/{gate}"].double().mean(dim=0)
        assert first["gates"][gate] == pytest.approx(expected.tolist())
    for task in ("ctr", "cvr"):
        expected = explained[f"self_gates/{task}"].double().mean(dim=0)
        assert list(second["own"][f"self gate of {task}"].values()) == pytest.approx(
            expected.tolist()
        )
    for level, prefix in ((first, "level_1/"), (second, "")):
        for name in ("mean", "std", "zero_share"):
            assert level[name] == pytest.approx(
                explained[f"{prefix}experts/{name}"].tolist(), rel=1e-5
            )


def test_refined_vectors_have_the_names_of_fields_and_behaviours(dtrn_run: Path) -> None:
    scorer, batch = sample(dtrn_run, 300)
    (level,), refinement = expert_health(scorer.net, batch)
    assert refinement["vectors"][:2] == ["user_id", "item_id"]
    assert refinement["vectors"][-1] == "click"
    assert list(level["gates"]) == ["ctr", "cvr"]
    explained = scorer.net.explain(batch)
    for task, weights in refinement["tasks"].items():
        expected = explained[f"refinement/{task}"].double().mean(dim=0)
        assert weights == pytest.approx(expected.tolist())


def test_a_gate_that_collapsed_and_one_that_does_not_choose_are_found(run: Path) -> None:
    scorer, batch = sample(run)
    net = scorer.net
    (level,), _ = expert_health(net, batch)
    assert level["unused"] == []
    assert level["constant"] == []
    state = net.tower.state_dict()
    keys = {t: next(k for k in state if k.startswith("gates") and t in k) for t in ("ctr", "cvr")}
    with torch.no_grad():
        net.get_parameter(f"tower.{keys['ctr']}").zero_()  # equal weights in every row
        net.get_parameter(f"tower.{keys['cvr']}").zero_()
    (level,), _ = expert_health(net, batch)
    assert level["constant"] == ["ctr", "cvr"]
    assert level["unused"] == []
    assert level["effective"]["ctr"] == pytest.approx({"of_means": 2.0, "of_rows": 2.0})
    assert level["reads"] == {"ctr": 2, "cvr": 2}


def test_an_expert_that_no_gate_takes_is_unused() -> None:
    def gate(*means: float) -> dict[str, object]:
        sums = GateSums()
        sums.add(torch.tensor([means]))
        return sums.numbers()

    names = ["ctr 1", "ctr 2", "shared 1"]
    gates = {_Place(1, "gates", "ctr"): gate(0.005, 0.01, 0.985)}
    assert _level(1, gates, names, None)["unused"] == ["ctr 1", "ctr 2"]  # 1 / 60 is the limit
    gates[_Place(1, "self_gates", "ctr")] = gate(0.9, 0.001)
    assert _level(1, gates, names, None)["unused"] == ["ctr 2"]


def test_a_tower_without_gates_has_no_levels(funnel: Path, tmp_path: Path) -> None:
    small = "tower={kind: shared_bottom, expert_widths: [4], head_widths: []}"
    api.train(funnel / "spec.yaml", out=tmp_path / "run", overrides=[small, "train.epochs=1"])
    scorer, batch = sample(tmp_path / "run", 100)
    assert expert_health(scorer.net, batch) == ([], {})
