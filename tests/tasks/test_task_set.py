from __future__ import annotations

import copy
import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn
from torch.testing import assert_close

from recmtl.metrics import task_metrics
from recmtl.tasks import TaskDef, TaskSet
from tests.reference.likelihood import Outcome, joint_terms

NAN = math.nan
CTR = TaskDef(name="ctr", label="click")
CVR = TaskDef(name="cvr", label="conversion", given="click")
CTCVR = TaskDef(name="ctcvr", label="conversion", product_of=("ctr", "cvr"))
FUNNEL = (CTR, CVR, CTCVR)
DWELL = TaskDef(
    name="dwell", label="dwell_s", kind="regression", given="click", weight=0.2, mean=30.0, std=12.0
)
LIKE = TaskDef(name="like", label="like", weight=0.5)
LABELS = ("click", "conversion", "dwell_s", "like")

Objective = Literal["tasks", "entire_space"]
objectives = pytest.mark.parametrize("objective", ["tasks", "entire_space"])
normalizations = pytest.mark.parametrize("normalize", ["rows", "observed"])


def funnel(objective: Objective = "entire_space", **keys: Literal["rows", "observed"]) -> TaskSet:
    return TaskSet(FUNNEL, labels=("click", "conversion"), objective=objective, **keys)


def rows(num_rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with nulls, and weights of which some are 0."""
    rng = np.random.default_rng(seed)
    click = rng.random(num_rows) < 0.4
    conversion = click & (rng.random(num_rows) < 0.5)
    dwell = np.where(click, rng.normal(30, 12, num_rows), NAN)
    like = rng.random(num_rows) < 0.3
    labels = np.stack([click, conversion, dwell, like], axis=1).astype(np.float64)
    labels[rng.random(labels.shape) < 0.1] = NAN
    weights = rng.choice([0.0, 0.5, 1.0, 3.0], num_rows)
    logits = rng.normal(0, 2, (num_rows, 4))
    return torch.tensor(logits), torch.tensor(labels), torch.tensor(weights)


def gradient(tasks: TaskSet, logits_BH: Tensor, *rest: Tensor, **keys: Tensor) -> Tensor:
    z_BH = logits_BH.clone().requires_grad_()
    tasks.loss(z_BH, *rest, **keys).total.backward()
    assert z_BH.grad is not None
    return z_BH.grad


@objectives
@normalizations
def test_matches_plain_loops(objective: Objective, normalize: Literal["rows", "observed"]) -> None:
    logits_BH, labels_BK, weight_B = rows(60)
    tasks = TaskSet(
        [CTCVR, CTR, DWELL, CVR, LIKE], labels=LABELS, objective=objective, normalize=normalize
    )  # the product first: its column moves
    assert tasks.heads == ("ctr", "dwell", "cvr", "like")
    outcomes = {
        "ctcvr": Outcome(1, None, (0, 2)),
        "ctr": Outcome(0, None, (0,)),
        "dwell": Outcome(2, 0, (1,), 0.2, (30.0, 12.0)),
        "cvr": Outcome(1, 0, (2,)),
        "like": Outcome(3, None, (3,), 0.5),
    }
    del outcomes["cvr" if objective == "entire_space" else "ctcvr"]
    expected = joint_terms(
        outcomes,
        logits_BH.tolist(),
        labels_BK.tolist(),
        weight_B.tolist(),
        observed_only=normalize == "observed",
    )
    terms = tasks.loss(logits_BH, labels_BK, weight_B)
    assert list(terms.by_task) == list(expected)
    found = {name: float(term) for name, term in terms.by_task.items()}
    assert found == pytest.approx(expected, rel=1e-12)
    assert float(terms.total) == pytest.approx(sum(expected.values()), rel=1e-12)


@objectives
@normalizations
def test_gradient_matches_finite_differences(
    objective: Objective, normalize: Literal["rows", "observed"]
) -> None:
    logits_BH, labels_BK, weight_B = rows(8, seed=1)
    tasks = TaskSet([*FUNNEL, DWELL, LIKE], labels=LABELS, objective=objective, normalize=normalize)
    logits_BH.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: tasks.loss(z, labels_BK, weight_B).total, (logits_BH,)
    )


@pytest.mark.parametrize(("click", "conversion"), [(0, 0), (1, 0), (1, 1)])
def test_esmm_has_the_gradients_of_its_paper(click: int, conversion: int) -> None:
    a, b = 0.3, -0.8
    p, q = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
    of_q = {(0, 0): p / (1 - p * q), (1, 0): p / (1 - p * q), (1, 1): -1 / q}
    of_p = {
        (0, 0): 1 / (1 - p) + q / (1 - p * q),
        (1, 0): -1 / p + q / (1 - p * q),
        (1, 1): -2 / p,
    }
    logits_BH = torch.tensor([[a, b]], dtype=torch.float64)
    labels_BK = torch.tensor([[click, conversion]], dtype=torch.float64)
    found = gradient(funnel(), logits_BH, labels_BK, torch.ones(1, dtype=torch.float64))
    row = (click, conversion)
    expected = [[of_p[row] * p * (1 - p), of_q[row] * q * (1 - q)]]
    assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_esmm_pulls_the_click_both_ways_around_one_half() -> None:
    labels_BK = torch.tensor([[1.0, 0.0]])  # clicked, not converted: pq above 1/2 pushes p down
    sign = [
        float(gradient(funnel(), torch.tensor([[a, 20.0]]), labels_BK, torch.ones(1))[0, 0])
        for a in (-0.1, 0.1)
    ]
    assert sign[0] < 0 < sign[1]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ctr = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
        self.cvr = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x_BD: Tensor) -> Tensor:
        return torch.cat([self.ctr(x_BD), self.cvr(x_BD)], dim=1)


def labelled(num_rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_BD = torch.randn(num_rows, 5, generator=generator)
    click = torch.rand(num_rows, generator=generator) < 0.4
    conversion = click & (torch.rand(num_rows, generator=generator) < 0.5)
    return x_BD, torch.stack([click, conversion], dim=1).float(), torch.ones(num_rows)


def reached(net: nn.Module) -> dict[str, bool]:
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in head.parameters())
        for name, head in net.named_children()
    }


def test_ctcvr_reaches_both_towers_and_ctr_only_its_own_pitfall_T14() -> None:
    for term, expected in (
        ("ctcvr", {"ctr": True, "cvr": True}),
        ("ctr", {"ctr": True, "cvr": False}),
    ):
        net = TwoHeads()
        x_BD, *rest = labelled(64)
        funnel().loss(net(x_BD), *rest).by_task[term].backward()
        assert reached(net) == expected


@pytest.mark.slow
def test_compiled_loss_equals_the_bare_one_pitfall_T15() -> None:
    tasks = TaskSet([CTCVR, CTR, DWELL, CVR, LIKE], labels=LABELS, objective="entire_space")
    logits_BH, labels_BK, weight_B = (t.float() for t in rows(64))

    def loss(z_BH: Tensor) -> Tensor:
        return tasks.loss(z_BH, labels_BK, weight_B).total

    compiled = torch.compile(loss, fullgraph=True)
    bare_BH, same_BH = logits_BH.clone().requires_grad_(), logits_BH.clone().requires_grad_()
    bare, same = loss(bare_BH), compiled(same_BH)
    bare.backward()
    same.backward()
    assert_close(same, bare)
    assert_close(same_BH.grad, bare_BH.grad)


def test_distributed_wrapper_changes_nothing_pitfall_T15(gloo: None) -> None:
    x_BD, *rest = labelled(64)
    bare = TwoHeads()
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(bare))
    losses = []
    for net in (bare, wrapped):
        losses.append(funnel().loss(net(x_BD), *rest).total)
        losses[-1].backward()
    assert torch.equal(*losses)
    for ours, theirs in zip(bare.parameters(), wrapped.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_multiplies_probabilities_not_logits_pitfall_T16(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits_BH = (20 * torch.randn(500, 2)).to(dtype)
    tasks = funnel()
    probs_BT = tasks.probs(logits_BH)
    assert tasks.names == ("ctr", "cvr", "ctcvr")
    assert probs_BT.dtype == torch.float32
    exact_BH = 1 / (1 + np.exp(-logits_BH.double().numpy()))
    expected = np.concatenate([exact_BH, exact_BH.prod(axis=1, keepdims=True)], axis=1)
    assert_close(probs_BT.double().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert (probs_BT[:, 2] - probs_BT[:, 0] * probs_BT[:, 1]).abs().max() < 1e-6


def test_log_probs_and_log_odds_say_the_same() -> None:
    torch.manual_seed(0)
    logits_BH = torch.randn(100, 3, dtype=torch.float64)
    tasks = TaskSet([CTR, DWELL, CTCVR, CVR], labels=LABELS, objective="tasks")
    probs_BT = tasks.probs(logits_BH)
    binary = [0, 2, 3]
    assert_close(tasks.log_probs(logits_BH).exp()[:, binary], probs_BT[:, binary])
    assert_close(tasks.log_odds(logits_BH).sigmoid()[:, binary], probs_BT[:, binary])
    for outputs_BT in (probs_BT, tasks.log_probs(logits_BH), tasks.log_odds(logits_BH)):
        assert_close(outputs_BT[:, 1], logits_BH[:, 1] * 12 + 30)


def test_metrics_stand_on_each_tasks_own_rows_pitfall_T19() -> None:
    torch.manual_seed(0)
    tasks = funnel()
    _, labels_BK, weight_B = labelled(3000)
    logits_BH = torch.randn(3000, 2)
    probs_BT, observed_BT = tasks.probs(logits_BH), tasks.observed(labels_BK, weight_B)
    targets_BT = tasks.targets(labels_BK)
    click, conversion = labels_BK.numpy().astype(bool).T
    populations = {"ctr": (click, slice(None)), "cvr": (conversion, click)}
    populations["ctcvr"] = (conversion, slice(None))
    for t, name in enumerate(tasks.names):
        metrics = task_metrics(
            "binary", probs_BT[:, t], targets_BT[:, t], observed=observed_BT[:, t]
        )
        label, on = populations[name]
        label, prob = label[on], probs_BT[:, t].numpy()[on].astype(np.float64)
        assert metrics["n"] == len(label)
        assert metrics["auc"] == pytest.approx(roc_auc_score(label, prob), abs=1e-9)
        assert metrics["logloss"] == pytest.approx(log_loss(label, prob), rel=1e-9)
        assert metrics["pcoc"] == pytest.approx(prob.mean() / label.mean(), rel=1e-9)


@objectives
@normalizations
def test_no_click_at_all_gives_no_cvr_loss_pitfall_T21(
    objective: Objective, normalize: Literal["rows", "observed"]
) -> None:
    tasks = TaskSet([*FUNNEL, DWELL], labels=LABELS[:3], objective=objective, normalize=normalize)
    labels_BK = torch.tensor([[0.0, 0.0, NAN]]).expand(16, 3)
    logits_BH = torch.randn(16, 3, requires_grad=True)
    terms = tasks.loss(logits_BH, labels_BK, torch.ones(16))
    terms.total.backward()
    assert logits_BH.grad is not None
    assert logits_BH.grad.isfinite().all()
    assert terms.by_task["dwell"].item() == 0.0
    assert (logits_BH.grad[:, 2] == 0).all()
    if objective == "tasks":
        assert terms.by_task["cvr"].item() == 0.0
        assert (logits_BH.grad[:, 1] == 0).all()


def test_weight_zero_gives_no_gradient_pitfall_T23() -> None:
    tasks = TaskSet(
        [CTR, TaskDef(name="like", label="conversion", weight=0.0)],
        labels=("click", "conversion"),
        objective="tasks",
    )
    net = TwoHeads()
    x_BD, *rest = labelled(64)
    tasks.loss(net(x_BD), *rest).total.backward()
    assert reached(net) == {"ctr": True, "cvr": False}


@objectives
@normalizations
def test_doubling_the_batch_changes_nothing_pitfall_T24(
    objective: Objective, normalize: Literal["rows", "observed"]
) -> None:
    tasks = funnel(objective, normalize=normalize)
    net, twice = TwoHeads(), TwoHeads()
    x_BD, labels_BK, weight_B = labelled(64)
    tasks.loss(net(x_BD), labels_BK, weight_B).total.backward()
    doubled = (torch.cat([t, t]) for t in (x_BD, labels_BK, weight_B))
    tasks.loss(twice(next(doubled)), *doubled).total.backward()
    for once, again in zip(net.parameters(), twice.parameters(), strict=True):
        assert_close(again.grad, once.grad)


@objectives
@normalizations
def test_shards_with_global_weights_give_the_gradient_of_the_whole(
    objective: Objective, normalize: Literal["rows", "observed"]
) -> None:
    tasks = TaskSet(
        [CTCVR, CTR, DWELL, CVR, LIKE], labels=LABELS, objective=objective, normalize=normalize
    )
    logits_BH, labels_BK, weight_B = rows(40)
    labels_BK[:25, 0] = 0  # no click on the first rank
    shards = (slice(0, 25), slice(25, 40))
    totals = {
        "total_weight": weight_B.sum(),
        "observed_weight_T": sum(tasks.observed_weight(labels_BK[r], weight_B[r]) for r in shards),
    }
    parts = [gradient(tasks, logits_BH[r], labels_BK[r], weight_B[r], **totals) for r in shards]
    assert_close(torch.cat(parts), gradient(tasks, logits_BH, labels_BK, weight_B))


def test_nulls_and_padding_are_observed_nowhere() -> None:
    labels_BK = torch.tensor([[1.0, 1.0], [1.0, NAN], [0.0, 0.0], [NAN, 1.0], [1.0, 1.0]])
    weight_B = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.0])
    tasks = funnel()
    assert tasks.observed(labels_BK, weight_B).tolist() == [
        [True, True, True],
        [True, False, False],
        [True, False, True],
        [False, False, True],
        [False, False, False],
    ]
    assert tasks.targets(labels_BK).tolist() == [
        [1.0, 1.0, 1.0],
        [1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
        [1.0, 1.0, 1.0],
    ]
    assert tasks.observed_weight(labels_BK, weight_B).tolist() == [4.0, 1.0, 4.0]


def test_a_product_can_have_a_condition_of_its_own() -> None:
    exposed = TaskDef(name="p", label="conversion", product_of=("ctr", "cvr"), given="shown")
    tasks = TaskSet([CTR, CVR, exposed], labels=("click", "conversion", "shown"), objective="tasks")
    labels_BK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, NAN]])
    assert tasks.observed(labels_BK, torch.ones(3))[:, 2].tolist() == [True, False, False]


@objectives
@given(st.integers(0, 2**31), st.floats(0.0, 1.0))
def test_nulls_never_reach_a_gradient(objective: Objective, seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    tasks = TaskSet([*FUNNEL, DWELL, LIKE], labels=LABELS, objective=objective)
    logits_BH = 40 * torch.randn(12, 4, generator=generator)
    labels_BK = (torch.rand(12, 4, generator=generator) < 0.5).float()
    labels_BK[torch.rand(12, 4, generator=generator) < share] = NAN
    weight_B = torch.randint(0, 2, (12,), generator=generator).float()
    found_BH = gradient(tasks, logits_BH, labels_BK, weight_B)
    assert found_BH.isfinite().all()
    assert (found_BH[weight_B == 0] == 0).all()


def test_half_precision_logits_give_a_float32_loss() -> None:
    logits_BH, labels_BK, weight_B = rows(30)
    tasks = TaskSet([*FUNNEL, DWELL, LIKE], labels=LABELS, objective="entire_space")
    half_BH = logits_BH.bfloat16()
    terms = tasks.loss(half_BH, labels_BK.float(), weight_B.float())
    assert terms.total.dtype == torch.float32
    assert_close(
        terms.total.double(),
        tasks.loss(half_BH.double(), labels_BK, weight_B).total,
        rtol=1e-5,
        atol=0,
    )


def test_it_adds_no_parameters_and_no_state() -> None:
    tasks = funnel()
    assert not list(tasks.parameters())
    assert not tasks.state_dict()


def test_outputs_can_be_exported() -> None:
    class Net(TwoHeads):
        def __init__(self) -> None:
            super().__init__()
            self.tasks = TaskSet(
                [CTCVR, CTR, CVR], labels=("click", "conversion"), objective="tasks"
            )

        def forward(self, x_BD: Tensor) -> Tensor:
            return self.tasks.probs(super().forward(x_BD))

    net = Net()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(net, (torch.randn(3, 5),), dynamic_shapes=({0: batch},))
    for num_rows in (1, 7):
        x_BD = torch.randn(num_rows, 5)
        assert_close(program.module()(x_BD), net(x_BD))


def test_deep_copy_keeps_the_numbers() -> None:
    logits_BH, labels_BK, weight_B = rows(10)
    tasks = TaskSet([*FUNNEL, DWELL, LIKE], labels=LABELS, objective="entire_space")
    again = copy.deepcopy(tasks)
    assert_close(
        again.loss(logits_BH, labels_BK, weight_B).total,
        tasks.loss(logits_BH, labels_BK, weight_B).total,
        rtol=0,
        atol=0,
    )
