from __future__ import annotations

import pytest

from recmtl.errors import SpecError
from recmtl.tasks import TaskDef, TaskSet

CTR = TaskDef(name="ctr", label="click")
CVR = TaskDef(name="cvr", label="conversion", given="click")
CTCVR = TaskDef(name="ctcvr", label="conversion", product_of=("ctr", "cvr"))
DWELL = TaskDef(name="dwell", label="dwell_s", kind="regression")
STARS = TaskDef(name="stars", label="stars", kind="multiclass", classes=5)
LABELS = ("click", "conversion", "dwell_s", "stars")


def build(*tasks: TaskDef, objective: str = "entire_space") -> TaskSet:
    return TaskSet(tasks, labels=LABELS, objective=objective)


def product(name: str, *factors: str, **keys: object) -> TaskDef:
    return TaskDef(name=name, label="conversion", product_of=factors, **keys)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ((), r"^tasks: no task is declared\.$"),
        ((CTR, CTR), r"^tasks: the name `ctr` is used 2 times\.$"),
        (
            (CTR, TaskDef(name="cvr", label="convers", given="clik")),
            r"^task `cvr`: label names `convers`, which is no label column\. Did you mean "
            r"`conversion`\?\n"
            r"task `cvr`: given names `clik`, which is no label column\. Did you mean `click`\?$",
        ),
        (
            (TaskDef(name="ctr", label="click", given="click"),),
            r"^task `ctr`: given is its own label `click`; name the column of the condition\.$",
        ),
        (
            (TaskDef(name="ctr", label="click", kind="ordinal"),),
            r"^task `ctr`: kind must be `binary`, `regression` or `multiclass`, got 'ordinal'\.$",
        ),
        (
            (TaskDef(name="stars", label="stars", kind="multiclass"),),
            r"^task `stars`: classes must be an integer of at least 2, got None\.$",
        ),
        (
            (TaskDef(name="ctr", label="click", classes=2),),
            r"^task `ctr`: classes is for `multiclass` tasks, but kind is `binary`\.$",
        ),
        (
            (STARS, TaskDef(name="ctr", label="click", given="stars")),
            r"^task `ctr`: given must be 0 or 1, but `stars` is the label of the multiclass task "
            r"`stars`\.$",
        ),
        (
            (TaskDef(name="stars", label="stars", kind="multiclass", classes=3, std=2.0),),
            r"^task `stars`: mean and std scale the label of a regression, but kind is `multiclas",
        ),
        (
            (TaskDef(name="ctr", label="click", weight=-1.0),),
            r"^task `ctr`: weight must be a number of at least 0, got -1\.0\.$",
        ),
        (
            (TaskDef(name="dwell", label="dwell_s", kind="regression", std=0.0),),
            r"^task `dwell`: mean must be finite and std above 0, got 0\.0 and 0\.0\.$",
        ),
        (
            (TaskDef(name="ctr", label="click", mean=0.1),),
            r"^task `ctr`: mean and std scale the label of a regression, but kind is `binary`\.$",
        ),
        (
            (CTR, CVR, product("ctcvr", "ctr", "cvrr")),
            r"^task `ctcvr`: product_of names `cvrr`, which is no task\. Did you mean `cvr`\?$",
        ),
        (
            (CTR, DWELL, product("p", "ctr", "dwell")),
            r"^task `p`: product_of names `dwell`, a regression; only probabilities can be mult",
        ),
        (
            (CTR, STARS, product("p", "ctr", "stars")),
            r"^task `p`: product_of names `stars`, a multiclass task; only probabilities can be m",
        ),
        (
            (CTR, CVR, product("p", "ctr", "cvr", kind="regression")),
            r"^task `p`: product_of makes it a probability, so its kind must be `binary`, got 'reg",
        ),
        ((CTR, product("p", "ctr")), r"^task `p`: product_of needs at least two factors, got 1\.$"),
        (
            (CTR, CVR, product("p", "ctr", "p")),
            r"^task `p`: product_of leads back to itself: `p` -> `p`\.$",
        ),
        (
            (CTR, CVR, product("p", "ctr", "q"), product("q", "p", "cvr")),
            r"^task `p`: product_of leads back to itself: `p` -> `q` -> `p`\.\n"
            r"task `q`: product_of leads back to itself: `q` -> `p` -> `q`\.$",
        ),
        (
            (CTR, CVR, product("p", "ctr", "ctr")),
            r"^task `p`: product_of multiplies `ctr` more than once\.$",
        ),
        (
            (CTR, CVR, CTCVR, product("p", "ctcvr", "ctr")),
            r"^task `p`: product_of multiplies `ctr` more than once\.$",
        ),
        (
            (CTR, CVR, product("ctcvr", "ctr", "cvr", weight=0.0)),
            r"^task `cvr`: nothing would train it\. In the entire space it is learned through its "
            r"products, and their weight is 0: raise it, or use `objective: tasks`\.$",
        ),
        (
            (TaskDef(name="ctr", label="click", weight=0.0),),
            r"^tasks: every weight is 0, so nothing would be trained\.$",
        ),
    ],
)
def test_what_is_wrong_is_named(tasks: tuple[TaskDef, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(*tasks)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        build(
            TaskDef(name="a", label="clik", weight=float("nan")),
            DWELL,
            product("p", "a", "dwell", "missing"),
        )
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize("key", ["objective", "normalize"])
def test_unknown_settings_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"`{key}` must be one of .*, got 'nothing'"):
        TaskSet([CTR], labels=LABELS, **{"objective": "tasks", key: "nothing"})


def test_heads_carry_loss_and_products_do_not() -> None:
    tasks = build(CTR, CVR, CTCVR, DWELL, objective="tasks")
    assert tasks.names == ("ctr", "cvr", "ctcvr", "dwell")
    assert tasks.heads == ("ctr", "cvr", "dwell")
    assert tasks.trained == ("ctr", "cvr", "dwell")


def test_in_the_entire_space_only_conditional_factors_carry_none() -> None:
    like = TaskDef(name="like", label="conversion", given="click")  # conditional, but no factor
    tasks = build(CTR, CVR, CTCVR, like, DWELL)
    assert tasks.trained == ("ctr", "ctcvr", "like", "dwell")


def test_products_of_products_are_multiplied_out() -> None:
    refund = TaskDef(name="refund", label="dwell_s", given="conversion")
    tasks = build(product("all", "ctcvr", "refund"), CTR, CTCVR, CVR, refund)
    assert tasks.factors == {"all": ("ctr", "cvr", "refund"), "ctcvr": ("ctr", "cvr")}
    assert tasks.trained == ("all", "ctr", "ctcvr")


def test_without_a_product_both_objectives_are_the_same() -> None:
    assert build(CTR, CVR).trained == build(CTR, CVR, objective="tasks").trained == ("ctr", "cvr")


def test_a_head_of_weight_zero_is_allowed() -> None:
    tasks = build(CTR, TaskDef(name="like", label="conversion", weight=0.0))
    assert tasks.trained == ("ctr", "like")
