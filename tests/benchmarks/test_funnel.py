"""The opponents and the figures of `examples/benchmarks/funnel.py`, against plain loops."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from recmtl.simulate import simulate

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "contestants")]

import boosting  # noqa: E402
import funnel_contestants  # noqa: E402
import funnel_factorisation  # noqa: E402
import funnel_page  # noqa: E402
from funnel_contestants import Contestant  # noqa: E402
from funnel_figures import Figures  # noqa: E402
from funnel_world import World  # noqa: E402
from peers_processes import PEERS  # noqa: E402

PARTS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(8_000, 1, tmp_path_factory.mktemp("funnel"), users=50, items=30)
    folder = world.work / "8000-1-50-30-1" / "data"
    simulate(folder, rows=8_000, seed=1, users=50, items=30)
    return world


@pytest.fixture(scope="module")
def data(world: World) -> boosting.Data:
    return boosting.Data(*(pl.read_parquet(world.data / f"{part}.parquet") for part in PARTS))


@pytest.mark.parametrize("kind", ["mf", "fm"])
def test_factorised_logits_are_those_of_plain_loops(kind: str) -> None:
    torch.manual_seed(1)
    model = funnel_factorisation.Factorised(kind, 12, 3, base_rate=0.2).double()
    torch.nn.init.normal_(model.weights.weight)
    x_BF = torch.randint(0, 12, (5, 4))
    logit_B, size_B = model(x_BF)
    w, v = model.weights.weight.tolist(), model.vectors.weight.tolist()
    for b, row in enumerate(x_BF.tolist()):
        pairs = [(0, 1)] if kind == "mf" else [(f, g) for g in range(4) for f in range(g)]
        expected = np.log(0.2 / 0.8) + sum(w[value][0] for value in row)
        expected += sum(v[row[f]][d] * v[row[g]][d] for f, g in pairs for d in range(3))
        read = row[:2] if kind == "mf" else row
        size = sum(w[value][0] ** 2 for value in row)
        size += sum(number**2 for value in read for number in v[value])
        assert logit_B[b].item() == pytest.approx(expected, rel=1e-6)
        assert size_B[b].item() == pytest.approx(size, rel=1e-6)


def test_values_are_numbered_by_column_and_unknown_ones_have_a_number_of_their_own(
    data: boosting.Data,
) -> None:
    known = data.train.filter(pl.col("user_id") != data.test["user_id"][0])
    x_BF, unknown = funnel_factorisation.encode(known, data.test)
    seen: dict[int, set[tuple[int, object]]] = {}
    for n in range(data.test.height):
        for f, name in enumerate(funnel_factorisation.COLUMNS):
            seen.setdefault(int(x_BF[n, f]), set()).add((f, data.test[name][n]))
    assert max(len(values) for number, values in seen.items() if number not in unknown) == 1
    assert (x_BF[:, 0] == unknown[0]).tolist() == (
        ~data.test["user_id"].is_in(known["user_id"].unique().to_list())
    ).to_list()
    price, bucket = data.test["price"].to_numpy(), x_BF[:, -1].numpy()
    assert (np.diff(bucket[np.argsort(price)]) >= 0).all()
    assert unknown[-2] < bucket.min()
    assert bucket.max() < unknown[-1]


def test_what_was_tried_is_not_tried_again_unless_the_grid_changes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = funnel_factorisation
    fitted = []
    fit = script.fit

    def counted(*args: object) -> object:
        fitted.append(args[3:])
        return fit(*args)

    monkeypatch.setattr(script, "fit", counted)
    monkeypatch.setattr(script, "DIMS", (2,))
    monkeypatch.setattr(script, "PENALTIES", (0.01, 0.1))
    options = ["--kind", "mf", "--label", "click"]
    monkeypatch.setattr(sys, "argv", ["", str(world.data), str(tmp_path / "mf"), *options])
    script.main()
    first = json.loads((tmp_path / "mf.json").read_text())
    logits = pl.read_parquet(tmp_path / "mf.parquet")["logit"]
    script.main()
    assert fitted == [(2, 0.01), (2, 0.1)]
    (tmp_path / "mf.trials").write_text(
        (tmp_path / "mf.trials").read_text()[:-9]  # torn
    )
    script.main()
    assert fitted[2:] == [(2, 0.1)]
    assert json.loads((tmp_path / "mf.json").read_text()) == first
    assert pl.read_parquet(tmp_path / "mf.parquet")["logit"].equals(logits)
    monkeypatch.setattr(script, "PENALTIES", (0.2,))
    script.main()
    assert fitted[3:] == [(2, 0.2)]
    assert json.loads((tmp_path / "mf.json").read_text())["l2"] == 0.2


def test_mean_labels_leave_the_rows_own_fold_out(data: boosting.Data) -> None:
    train = data.train.head(200)
    fold = np.random.default_rng(0).integers(0, 5, 200)
    base = train["click"].mean()
    of_train = boosting.mean_labels(train, train, "click", "user_id")
    of_test = boosting.mean_labels(train, data.test, "click", "user_id")
    users, clicks = train["user_id"].to_list(), train["click"].to_list()
    for n in range(0, 200, 7):
        rows = [m for m in range(200) if users[m] == users[n] and fold[m] != fold[n]]
        expected = (sum(clicks[m] for m in rows) + 20 * base) / (len(rows) + 20)
        assert of_train[n] == pytest.approx(expected, rel=1e-12)
    for n in range(0, data.test.height, 29):
        rows = [m for m in range(200) if users[m] == data.test["user_id"][n]]
        expected = (sum(clicks[m] for m in rows) + 20 * base) / (len(rows) + 20)
        assert of_test[n] == pytest.approx(expected, rel=1e-12)


def test_boosting_chooses_as_if_every_setting_had_been_fitted_alone(data: boosting.Data) -> None:
    seen = boosting.Columns(names=("age", "price"), keys=("item_id",), numeric=("age", "price"))
    grid = boosting.Grid(rounds=(2, 5, 9), leaves=(3, 7), early_stopping=False)
    found = boosting.boosted(data, ["click"], seen, grid)["click"]

    def matrix(frame: pl.DataFrame) -> np.ndarray:
        mean = boosting.mean_labels(data.train, frame, "click", "item_id")
        return np.column_stack([frame["history"].list.len(), frame["age"], frame["price"], mean])

    aucs = {}
    for rounds in grid.rounds:
        for leaves in grid.leaves:
            model = HistGradientBoostingClassifier(
                max_iter=rounds,
                learning_rate=0.05,
                max_leaf_nodes=leaves,
                l2_regularization=10.0,
                early_stopping=False,
                random_state=0,
            ).fit(matrix(data.train), data.train["click"])
            valid = model.predict_proba(matrix(data.valid))[:, 1]
            aucs[rounds, leaves] = roc_auc_score(data.valid["click"], valid), model
    auc, model = aucs[found.chosen["rounds"], found.chosen["leaves"]]
    assert auc == found.valid_auc == max(auc for auc, _ in aucs.values())
    assert found.test_probs == pytest.approx(model.predict_proba(matrix(data.test))[:, 1])


def test_counts_are_of_training_rows(data: boosting.Data) -> None:
    seen = boosting.Columns(names=(), keys=("item_id",), counts=True)
    _, counts = boosting._of_keys(data.train, data.test, "click", seen)
    items = data.train["item_id"].to_list()
    assert counts.tolist() == [items.count(item) for item in data.test["item_id"]]


@pytest.fixture(scope="module")
def predicting(world: World) -> Callable[..., Figures]:
    """Contestants that know the truth but for noise of a size; one run for each seed."""

    def make(name: str, noise: float, seeds: int, *, cvr: bool = False) -> Figures:
        runs = []
        for seed in range(seeds):
            rng = np.random.default_rng([seed, round(100 * noise)])
            ctr, cvr_N = (
                1 / (1 + np.exp(-np.log(p / (1 - p)) - noise * rng.normal(size=len(p))))
                for p in (world.test["p_ctr"].to_numpy(), world.test["p_cvr"].to_numpy())
            )
            columns = {"ctr": ctr, "ctcvr": ctr * cvr_N}
            runs.append(pl.DataFrame(columns | ({"cvr": cvr_N} if cvr else {})))
        return Figures(Contestant(name, runs), world)

    return make


def test_figures_agree_with_scikit_learn(world: World, predicting: Callable[..., Figures]) -> None:
    figures = predicting("ours, clicks only", 0.3, 2, cvr=True)
    labels = {"ctr": "click", "ctcvr": "conversion", "cvr": "conversion_potential"}
    for task, label in labels.items():
        expected = [roc_auc_score(world.test[label], r[task]) for r in figures.contestant.runs]
        assert figures.aucs[task][0] == pytest.approx(expected)
        bayes, additive = (world.summary[f"{k}_auc"][task] for k in ("bayes", "additive"))
        assert figures.closed(task) == pytest.approx(
            [(auc - additive) / (bayes - additive) for auc in expected]
        )
    assert figures.cvr_error is not None
    assert figures.cvr_error[0][0] == pytest.approx(
        np.abs(figures.contestant.runs[0]["cvr"] - world.test["p_cvr"]).mean()
    )


def test_without_a_cvr_of_its_own_it_is_the_quotient(
    world: World, predicting: Callable[..., Figures]
) -> None:
    own, quotient = (predicting("x", 0.3, 1, cvr=cvr) for cvr in (True, False))
    assert quotient.aucs["cvr"][0] == pytest.approx(own.aucs["cvr"][0], abs=1e-6)
    assert quotient.cvr_error is None


def test_differences_pair_seeds_and_repeat_an_opponent_of_one_run(
    predicting: Callable[..., Figures],
) -> None:
    ours, once = predicting("ours, clicks only", 0.3, 3), predicting("x", 1.0, 1)
    found = ours.less(once, "ctr")
    assert found.value == pytest.approx(np.mean(ours.aucs["ctr"][0]) - once.aucs["ctr"][0][0])
    one_R = ours.aucs["ctr"][1].mean(axis=0) - once.aucs["ctr"][1][0]
    assert found.users == pytest.approx(tuple(np.quantile(one_R, [0.025, 0.975])))


def test_the_sentences_follow_from_the_differences(
    world: World, predicting: Callable[..., Figures]
) -> None:
    shipped = predicting("ours, clicks only", 1.5, 1, cvr=True)
    others = [predicting(f"noise {noise}", noise, 1) for noise in (0.0, 1.51, 20.0)]
    ctr, *_ = funnel_page._sentences(shipped, [shipped, *others])
    assert "better by more than the interval than noise 20.0" in ctr
    assert "worse by more than the interval than noise 0.0" in ctr
    assert "not to be told apart from noise 1.51" in ctr
    assert "(the most: 100 %, noise 0.0)" in ctr
    ctr, *_ = funnel_page._sentences(shipped, [shipped, others[2]])
    assert "worse" not in ctr
    assert "the most" not in ctr
    ctr, *_ = funnel_page._sentences(others[2], [shipped, others[2]])
    assert f"stays {-100 * others[2].closed('ctr')[0]:.0f} % of the distance below" in ctr


def test_the_page_and_its_picture(
    world: World, predicting: Callable[..., Figures], tmp_path: Path
) -> None:
    figures = [
        predicting("ours, clicks only", 0.5, 2, cvr=True),
        predicting("ours, entire space", 0.4, 2, cvr=True),
        predicting("gradient boosting", 0.6, 1),
    ]
    text = funnel_page.page({world: figures}, {"x": "no network"}, "command", "funnel.png")
    assert "**x could not be run**: no network." in text
    assert "| ours, clicks only (as shipped) |" in text
    assert "and of the networks' training seeds" in text
    assert f"| gradient boosting | {figures[2].mean('ctr'):.4f} |" in text
    assert f"{figures[2].mean('cvr'):.4f}* |" in text
    funnel_page.draw({world: figures}, tmp_path / "funnel.png")
    assert (tmp_path / "funnel.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    made = []

    def make() -> tuple[pl.DataFrame, dict[str, int]]:
        made.append(1)
        return pl.DataFrame({"ctr": [0.5]}), {"rounds": 3}

    for _ in range(2):
        frame, notes = funnel_contestants._once(tmp_path / "a", make)
        assert (frame["ctr"].to_list(), notes) == ([0.5], {"rounds": 3})
    assert len(made) == 1


@pytest.mark.parametrize("is_made", [True, False])
def test_a_peer_that_cannot_be_run_is_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    home = tmp_path / "torch-rechub"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to("/bin/false")
    requirements = (
        f"torch=={torch.__version__.partition('+')[0]}",
        *PEERS["torch-rechub"].requirements,
    )
    if is_made:
        (home / "installed.txt").write_text("\n".join(requirements))
    else:
        monkeypatch.setattr(sys, "executable", "/bin/false")
    found = funnel_contestants.rechub(world, 1, tmp_path)
    assert not found.runs
    if is_made:
        assert "rechub-10-0.log" in found.problem
    else:
        assert found.problem == "its environment could not be made"
