"""Corrections against enumerated worlds: every combination of labels, its probability, its rate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from recmtl.errors import SpecError
from recmtl.tasks import TaskDef, TaskSet, Thinning

LABELS = ("click", "cart", "buy", "like")
CTR = TaskDef(name="ctr", label="click")
CART = TaskDef(name="cart_rate", label="cart", given="click")
BUY = TaskDef(name="buy_rate", label="buy", given="cart")
BOUGHT = TaskDef(name="bought", label="buy", product_of=("ctr", "cart_rate", "buy_rate"))
LIKE = TaskDef(name="like_rate", label="like", given="click")
TASKS = (CTR, CART, BUY, BOUGHT, LIKE)

World = dict[tuple[int, ...], float]
"""Probability of each combination of labels."""


def worlds(count: int) -> list[World]:
    """Worlds in which carts and likes follow clicks, independently, and purchases follow carts."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        click, cart, buy, like = rng.uniform(0.02, 0.9, 4)
        world = {}
        for labels in itertools.product((0, 1), repeat=4):
            if (labels[1] or labels[3]) > labels[0] or labels[2] > labels[1]:
                continue
            p = click if labels[0] else 1 - click
            if labels[0]:
                p *= (cart if labels[1] else 1 - cart) * (like if labels[3] else 1 - like)
            if labels[1]:
                p *= buy if labels[2] else 1 - buy
            world[labels] = p
        found.append(world)
    return found


def rate(labels: Sequence[int], thinnings: Sequence[Thinning]) -> float:
    total = 1.0
    for thinning in thinnings:
        ones = [share for column, share in thinning.keep if labels[LABELS.index(column)]]
        total *= ones[0] if ones else thinning.otherwise
    return total


def odds(world: World, task: TaskDef) -> float:
    """Of a task's label, among rows where its condition holds."""
    label, mass = LABELS.index(task.label), [0.0, 0.0]
    for labels, p in world.items():
        if task.given is None or labels[LABELS.index(task.given)]:
            mass[labels[label]] += p
    return mass[1] / mass[0]


@pytest.mark.parametrize(
    "thinnings",
    [
        [Thinning((("click", 1.0),), 0.1)],
        [Thinning((("buy", 1.0), ("click", 0.5)), 0.05)],
        [Thinning((("buy", 1.0), ("cart", 0.6), ("click", 0.3)), 0.02)],
        [Thinning((("cart", 0.9),), 0.1)],
        [Thinning((("buy", 0.7),), 0.2)],
        [Thinning((("click", 0.4), ("buy", 1.0)), 0.3)],
        [Thinning((("click", 1.0),), 0.5), Thinning((("buy", 1.0),), 0.2)],
    ],
    ids=str,
)
def test_corrected_logits_are_those_of_all_rows(thinnings: list[Thinning]) -> None:
    tasks = TaskSet((CTR, CART, BUY, BOUGHT), labels=LABELS, objective="tasks", thinnings=thinnings)
    found, expected, probs = [], [], []
    for world in worlds(20):
        left = {labels: p * rate(labels, thinnings) for labels, p in world.items()}
        found.append([math.log(odds(left, task)) for task in (CTR, CART, BUY)])
        expected.append([math.log(odds(world, task)) for task in (CTR, CART, BUY)])
        probs.append(sum(p for labels, p in world.items() if labels[2]))
    logits_BH = torch.tensor(found, dtype=torch.float64)
    assert_close(tasks.corrected(logits_BH), torch.tensor(expected, dtype=torch.float64))
    bought_B = torch.tensor(probs, dtype=torch.float64)
    assert_close(tasks.probs(logits_BH)[:, 3], bought_B)
    assert_close(tasks.log_probs(logits_BH)[:, 3].exp(), bought_B)
    assert_close(tasks.log_odds(logits_BH)[:, 3].sigmoid(), bought_B)


def test_a_task_beside_needs_nothing_where_clicks_alone_decide() -> None:
    tasks = TaskSet(
        TASKS, labels=LABELS, objective="tasks", thinnings=[Thinning((("click", 1.0),), 0.1)]
    )
    logits_BH = torch.zeros(1, 4, dtype=torch.float64)
    shift = math.log(10.0)
    expected_BH = torch.tensor([[-shift, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert_close(tasks.corrected(logits_BH), expected_BH)


def test_rates_of_rows_and_losses_of_what_is_left() -> None:
    thinnings = [Thinning((("buy", 1.0), ("click", 0.5)), 0.1)]
    heads = (CTR, CART, BUY)
    tasks = TaskSet(heads, labels=LABELS, objective="tasks", thinnings=thinnings)
    labels_BK = torch.tensor(
        [[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [torch.nan] * 4]
    )
    weight_B = torch.tensor([1.0, 2.0, 0.5, 0.0])
    assert_close(tasks.weight_of_all(labels_BK, weight_B), torch.tensor([1.0, 4.0, 5.0, 0.0]))
    plain = TaskSet(heads, labels=LABELS, objective="tasks")
    assert plain.weight_of_all(labels_BK, weight_B) is weight_B
    logits_BH, weight_B = torch.randn(4, 3), torch.ones(4)
    assert_close(
        tasks.loss(logits_BH, labels_BK, weight_B).total,
        plain.loss(logits_BH, labels_BK, weight_B).total,
    )
    assert torch.equal(plain.corrected(logits_BH), logits_BH)


def test_numbers_and_classes_are_left_alone_where_their_population_was_thinned_evenly() -> None:
    dwell = TaskDef(name="dwell", label="cart", kind="regression", given="click", mean=3.0)
    stars = TaskDef(name="stars", label="buy", kind="multiclass", classes=3, given="click")
    thinned = Thinning((("click", 1.0),), 0.1)
    tasks = TaskSet((dwell, CTR, stars), labels=LABELS, objective="tasks", thinnings=[thinned])
    plain = TaskSet((dwell, CTR, stars), labels=LABELS, objective="tasks")
    logits_BH = torch.randn(6, 5, dtype=torch.float64)
    found, expected = tasks.probs(logits_BH), plain.probs(logits_BH)
    assert torch.equal(found[:, [0, 2, 3, 4]], expected[:, [0, 2, 3, 4]])
    assert_close(found[:, 1].logit(), expected[:, 1].logit() - math.log(10))


@pytest.mark.parametrize(
    ("tasks", "keep", "message"),
    [
        (
            (CTR, CART),
            (("buy", 1.0),),
            r"task `cart_rate`: rows where `click` is 1 and `cart` is 1 were thinned by `buy`, and "
            r"no task predicts it there\. Declare one \(`\{label: buy, given: cart\}`\), thin by",
        ),
        (
            (CTR, LIKE),
            (("buy", 1.0),),
            r"task `ctr`: rows where `click` is 1 were thinned by `buy`, and no task predicts it "
            r"there\. Declare one \(`\{label: buy, given: click\}`\), or, if `click` is 1 only "
            r"where `buy` is, give the task `given: buy`, thin by other labels, or weigh rows",
        ),
        (
            (TaskDef(name="like_rate", label="like"),),
            (("click", 1.0),),
            r"task `like_rate`: rows where `like` is 1 were thinned by `click`",
        ),
        (
            (CTR, TaskDef(name="dwell", label="cart", kind="regression")),
            (("click", 1.0),),
            r"task `dwell`: rows of its population were thinned by `click`.* is no correction",
        ),
    ],
)
def test_what_cannot_be_corrected_is_refused(
    tasks: Sequence[TaskDef], keep: tuple[tuple[str, float], ...], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        TaskSet(tasks, labels=LABELS, objective="tasks", thinnings=[Thinning(keep, 0.1)])
