from __future__ import annotations

import copy
import pickle

import pytest
from torch import nn

from recmtl.towers import InputDims, TaskSlot, task_slots
from recmtl.towers.inputs import input_width


def test_names_become_slots() -> None:
    slots = task_slots(["click", TaskSlot("stars", outputs=5, group="taste", after=("click",))])
    assert slots == (TaskSlot("click"), TaskSlot("stars", 5, "taste", ("click",)))


def test_dims_can_be_copied_and_pickled() -> None:
    dims = InputDims(x=8, fields=("user_id",), field_dim=4, sequences={"click": 20})
    assert copy.deepcopy(dims) == dims
    assert pickle.loads(pickle.dumps(dims)) == dims  # a tower travels to worker processes
    assert input_width(dims) == 8


@pytest.mark.parametrize("in_dim", [0, -3, True, 2.0, "8", InputDims(x=0)])
def test_width_must_be_positive(in_dim: object) -> None:
    with pytest.raises(ValueError, match="`in_dim` must be a positive integer or `InputDims`, got"):
        input_width(in_dim)


@pytest.mark.parametrize("name", ["type", "train", "keys", "values", "to", "forward", "training"])
def test_names_of_dict_attributes_are_refused(name: str) -> None:
    assert hasattr(nn.ModuleDict(), name) or hasattr(nn.ParameterDict(), name)
    with pytest.raises(ValueError, match=rf"task name `{name}` is an attribute.*`is_{name}`"):
        task_slots([name])


@pytest.mark.parametrize("name", ["", "a b", "a.b", "1st", "class", "a-b", 3])
def test_names_are_identifiers(name: object) -> None:
    with pytest.raises(ValueError, match=r"must be an identifier|must be a sequence"):
        task_slots([TaskSlot(name)])


def test_all_problems_are_listed_at_once() -> None:
    slots = [TaskSlot("click"), TaskSlot("click"), TaskSlot("buy", outputs=0, after=("clik",))]
    with pytest.raises(ValueError, match="declared twice") as caught:
        task_slots(slots)
    assert str(caught.value).splitlines() == [
        "task `click` is declared twice.",
        "task `buy`: `outputs` must be a positive integer, got 0.",
        "task `buy`: `after` names `clik`, which is no task. Did you mean `click`?",
    ]


def test_no_task_and_one_string_are_refused() -> None:
    with pytest.raises(ValueError, match="`tasks` must name at least one task"):
        task_slots([])
    with pytest.raises(ValueError, match="must be a sequence of task names, got the string 'ctr'"):
        task_slots("ctr")


def test_circles_are_refused_and_chains_are_not_pitfall_T11() -> None:
    chain = [TaskSlot("a"), TaskSlot("b", after=("a",)), TaskSlot("c", after=("a", "b"))]
    assert len(task_slots(chain)) == 3
    with pytest.raises(ValueError, match="tasks `b`, `c` come after one another in a circle"):
        task_slots([TaskSlot("a"), TaskSlot("b", after=("c",)), TaskSlot("c", after=("b",))])
    with pytest.raises(ValueError, match="tasks `a` come after one another in a circle"):
        task_slots([TaskSlot("a", after=("a",))])
