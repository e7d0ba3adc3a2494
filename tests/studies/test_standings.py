"""Tables, words and pages from predictions whose outcome is known."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from recmtl.spec import Task
from recmtl.studies.contestants import Contestant
from recmtl.studies.costs import Cost
from recmtl.studies.pages import as_html, as_markdown, as_text
from recmtl.studies.resampling import Resamples
from recmtl.studies.standings import Judged, standings
from recmtl.studies.verdicts import sentences

ROWS, USERS, SEEDS = 4000, 300, 3
TASKS = (Task(name="ctr", label="click"), Task(name="dwell", label="s", kind="regression"))
NOISE = {"good-tasks": 0.5, "same-tasks": 0.5, "bad-tasks": 4.0, "single_task": 1.0}
"""How far a model's scores are from the truth."""


def contestant(name: str) -> Contestant:
    models = [f"single_task-{t.name}" for t in TASKS] if name == "single_task" else [name]
    return Contestant(name, name.split("-")[0], "tasks", dict.fromkeys(models))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("judged")
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(ROWS)
    labels = {"ctr": (rng.random(ROWS) < 1 / (1 + np.exp(-truth))), "dwell": truth}
    groups = folder / "rows.parquet"
    user = rng.integers(0, USERS, ROWS).astype(np.uint32)
    pq.write_table(pa.table({"group": user}), groups)
    judged, scores = {}, {}
    for name, noise in NOISE.items():
        for seed in range(SEEDS):
            for task in TASKS:
                run = f"{name}-{task.name}-{seed}" if name == "single_task" else f"{name}-{seed}"
                score = truth + noise * rng.standard_normal(ROWS)
                scores[name, task.name, seed] = score.astype(np.float32)
                cost = Cost(100, 10, 20.0, 50.0, 2.0)
                judged[run] = Judged(folder / f"{run}.parquet", {}, cost)
            both = ["ctr"], ["dwell"]
            for tasks in both if name == "single_task" else (["ctr", "dwell"],):
                run = f"{name}-{tasks[0]}-{seed}" if name == "single_task" else f"{name}-{seed}"
                columns = {}
                for task in tasks:
                    columns[f"prediction_{task}"] = scores[name, task, seed]
                    columns[f"label_{task}"] = labels[task].astype(np.float32)
                pq.write_table(pa.table(columns), folder / f"{run}.parquet")
                metrics = {t: {"n": ROWS, "gauc": None, "ne": 0.1 * seed} for t in tasks}
                judged[run] = judged[run].__class__(
                    folder / f"{run}.parquet", metrics, judged[run].cost
                )
    return {"judged": judged, "groups": groups, "scores": scores, "labels": labels, "user": user}


def table(world: dict[str, Any], *, without: str = "") -> dict[str, Any]:
    judged = {name: run for name, run in world["judged"].items() if name != without}
    found = [contestant(name) for name in NOISE]
    resamples = Resamples(USERS, 200, seed=0)
    return standings(found, TASKS, judged, world["groups"], resamples, seeds=SEEDS)


@pytest.fixture(scope="module")
def summary(world: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "shop <b>",
        "seeds": SEEDS,
        "rows": {"is_validation": True, "path": None, "count": ROWS},
        "groups": {"by": "user", "count": USERS},
        "resamples": 200,
        **table(world),
        "failed": [{"name": "x-0", "message": "DataError: no <rows>.", "exit_code": 3}],
        "left_out": ["y: nothing"],
        "jobs": 1,
        "threads": 2,
        "training_rows": 5,
        "spec": "0" * 64,
        "command": "recmtl",
        "date": "2020-01-01",
        "machine": "a",
        "versions": {"python": "3"},
    }


def entry(found: dict[str, Any], name: str, task: str) -> dict[str, Any]:
    return next(c for c in found["contestants"] if c["name"] == name)["tasks"][task]


def test_means_and_differences_are_those_of_scikit_learn(world: dict[str, Any]) -> None:
    found = table(world)
    aucs = {
        name: [
            roc_auc_score(world["labels"]["ctr"], world["scores"][name, "ctr", seed])
            for seed in range(SEEDS)
        ]
        for name in NOISE
    }
    for name, by_seed in aucs.items():
        own = entry(found, name, "ctr")
        assert own["mean"] == pytest.approx(sum(by_seed) / SEEDS)
        assert list(own["by_seed"].values()) == pytest.approx(by_seed)
        if name != "single_task":
            expected = sum(by_seed) / SEEDS - sum(aucs["single_task"]) / SEEDS
            assert own["vs_single_task"]["value"] == pytest.approx(expected)


def test_a_paired_interval_is_that_of_resampled_rows(world: dict[str, Any]) -> None:
    """The bootstrap by hand, over users, with scikit-learn: other draws, the same spread."""
    found = entry(table(world), "bad-tasks", "ctr")["vs_single_task"]
    rng = np.random.default_rng(9)
    rows_of = [np.flatnonzero(world["user"] == u) for u in range(USERS)]
    differences = []
    for _ in range(120):
        rows = np.concatenate([rows_of[u] for u in rng.integers(0, USERS, USERS)])
        label = world["labels"]["ctr"][rows]
        of = {
            name: np.mean(
                [roc_auc_score(label, world["scores"][name, "ctr", s][rows]) for s in range(SEEDS)]
            )
            for name in ("bad-tasks", "single_task")
        }
        differences.append(of["bad-tasks"] - of["single_task"])
    low, high = np.quantile(differences, [0.025, 0.975])
    assert found["users"][1] - found["users"][0] == pytest.approx(high - low, rel=0.35)
    assert found["users"][0] == pytest.approx(low, abs=0.01)
    assert found["interval"][0] < found["users"][0] + 1e-3


def test_verdicts_know_which_way_is_better(world: dict[str, Any]) -> None:
    found = table(world)
    for task in ("ctr", "dwell"):
        assert entry(found, "good-tasks", task)["vs_single_task"]["verdict"] == "better"
        assert entry(found, "bad-tasks", task)["vs_single_task"]["verdict"] == "worse"
        best = found["tasks"][task]["best"]
        assert best in ("good-tasks", "same-tasks")
        assert entry(found, best, task)["vs_best"] is None
        rival = {"good-tasks": "same-tasks", "same-tasks": "good-tasks"}[best]
        assert entry(found, rival, task)["vs_best"]["verdict"] == "tie"
        assert entry(found, "bad-tasks", task)["vs_best"]["verdict"] == "worse"
        assert entry(found, "single_task", task)["vs_single_task"] is None
    rmse = entry(found, "good-tasks", "dwell")["mean"]
    assert rmse == pytest.approx(0.5, rel=0.05)


def test_other_metrics_are_means_and_stay_undefined(world: dict[str, Any]) -> None:
    metrics = entry(table(world), "good-tasks", "ctr")["metrics"]
    assert metrics["n"] == ROWS
    assert metrics["gauc"] is None
    assert metrics["ne"] == pytest.approx(0.1)


def test_costs_of_models_side_by_side_add_up(world: dict[str, Any]) -> None:
    costs = {c["name"]: c["cost"] for c in table(world)["contestants"]}
    assert costs["single_task"]["table_parameters"] == 2 * costs["good-tasks"]["table_parameters"]
    assert costs["single_task"]["flops_per_row"] == 40
    assert costs["single_task"]["rows_per_s"] == pytest.approx(25)


def test_a_seed_that_failed_leaves_the_others(world: dict[str, Any]) -> None:
    found = table(world, without="good-tasks-1")
    own = entry(found, "good-tasks", "ctr")
    assert list(own["by_seed"]) == ["0", "2"]
    label, scores = world["labels"]["ctr"], world["scores"]
    by_seed = [
        roc_auc_score(label, scores["good-tasks", "ctr", s])
        - roc_auc_score(label, scores["single_task", "ctr", s])
        for s in (0, 2)
    ]
    assert own["vs_single_task"]["value"] == pytest.approx(sum(by_seed) / 2)
    assert entry(found, "single_task", "ctr")["mean"] == pytest.approx(
        entry(table(world), "single_task", "ctr")["mean"]
    )


def test_words_name_the_leader_and_the_ties(summary: dict[str, Any]) -> None:
    ctr, dwell = sentences(summary)
    best = summary["tasks"]["ctr"]["best"]
    rival = {"good-tasks": "same-tasks", "same-tasks": "good-tasks"}[best]
    assert f"of the multi-task models, `{best}` has the highest mean" in ctr
    assert f"Tied with it (the interval of the difference holds 0): `{rival}`." in ctr
    assert re.search(r"Better than `single_task`: `good-tasks` \(\+\.\d{4}\), `same-tasks`", ctr)
    assert re.search(r"Worse than `single_task`: `bad-tasks` \(-\.\d{4}\)", ctr)
    assert "has the lowest mean" in dwell


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone_and_escapes(summary: dict[str, Any]) -> None:
    page = as_html(summary)
    parser = _Tags()
    parser.feed(page)
    assert not {"script", "link", "img"} & set(parser.tags)
    assert not [link for link in parser.links if not link.startswith("#")]
    assert "shop &lt;b&gt;" in page
    assert "no &lt;rows&gt;" in page
    assert parser.tags.count("svg") == 3 * len(TASKS)
    for name in NOISE:
        assert f"<td>{name}</td>" in page


def test_markdown_begins_with_what_has_to_be_known(summary: dict[str, Any]) -> None:
    text = as_markdown(summary)
    head = text.split("| contestant")[0]
    assert "**Judged on the validation rows" in head
    assert "**Failed:** x-0: DataError: no <rows>." in head
    assert "Left out: y: nothing" in head
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    rows = rows[: 1 + len(NOISE)]
    assert len({line.count("|") for line in rows}) == 1
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows[1:]] == list(NOISE)
    metrics = [
        line for line in text.splitlines() if line.startswith(("| good-tasks | 4,000", "## ctr"))
    ]
    assert metrics[0] == "## ctr: all metrics, means over seeds"
    assert metrics[1] == "| good-tasks | 4,000 | - | .1000 |"
    table_lines = as_text(summary)[: 1 + len(NOISE)]
    assert len({len(line) for line in table_lines}) == 1
