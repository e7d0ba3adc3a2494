from __future__ import annotations

import pytest
from torch import nn

from recmtl.spec.names import MODULE_NAMES, task_name_problem


def test_every_public_name_of_this_torch_is_known() -> None:
    for module in (nn.Module(), nn.ModuleDict(), nn.ParameterDict()):
        assert {name for name in dir(module) if not name.startswith("_")} <= MODULE_NAMES


@pytest.mark.parametrize("name", ["ctr", "CTCVR", "like_30s", "class", "a__b"])
def test_names_that_modules_can_hold(name: str) -> None:
    assert task_name_problem(name) is None
    nn.ModuleDict({name: nn.Identity()})


@pytest.mark.parametrize("name", ["", "a b", "1a", "_a", "a-b", "a.b", "a/b", "é", "ctr\n"])
def test_names_that_are_no_identifiers(name: str) -> None:
    assert "must be a letter" in (task_name_problem(name) or "")
