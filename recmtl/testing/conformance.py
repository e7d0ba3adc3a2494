"""assert_tower_ok: every check that a tower has to pass, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from recmtl.testing import contract, experts, gates
from recmtl.testing.subject import NotApplicable, Subject

__all__ = ["assert_tower_ok"]

CHECKS: tuple[Callable[[Subject], None], ...] = (
    contract.check_arguments_are_kept,
    contract.check_config,
    contract.check_smallest,
    contract.check_one_row,
    contract.check_base_rates,
    contract.check_outputs,
    contract.check_class_rates,
    contract.check_rows_are_independent,
    contract.check_input_is_untouched,
    gates.check_explain_changes_nothing,
    contract.check_state_keys,
    gates.check_heads,
    gates.check_parameters_are_trained,
    gates.check_state_round_trip,
    gates.check_gates,
    gates.check_gates_are_parameters,
    contract.check_task_order,
    contract.check_task_circles,
    contract.check_storage,
    experts.check_shared_gate,
    experts.check_every_level_is_alive,
    experts.check_expert_owners,
    experts.check_distinct_units,
    experts.check_names_are_whole,
    contract.check_symbolic_trace,
    contract.check_export,
)
"""In the order in which a fault is easiest to understand."""


def assert_tower_ok(tower: nn.Module) -> dict[str, str]:
    """Check that a tower keeps the contract; for towers of your own as for those of this package.

    The tower is built again from its `config`, `in_dim` and `tasks`, on the CPU, with these and
    with other tasks and sizes; the one given is not changed, nor is the random state. A tower that
    has experts says where they are by `expert_refs` (see `recmtl.towers.ExpertRef`); one that has
    gates returns them from `explain` as ``gates/<task>``; without these the checks of experts or
    gates do not apply.

    Args:
        tower: any module with the interface of `recmtl.towers.Tower`.

    Returns:
        Each check's name -> ``passed``, or why it does not apply.

    Raises:
        AssertionError: at the first check that fails; the sentence begins with its number.

    Example:
        >>> from recmtl.towers import ESMM, ESMMConfig
        >>> tower = ESMM(ESMMConfig(head_widths=(8,)), in_dim=4, tasks=("ctr", "cvr"))
        >>> assert_tower_ok(tower)["check_task_order"]
        'passed'
    """
    results = {}
    with torch.random.fork_rng(devices=[]):
        subject = Subject(tower)
        for check in CHECKS:
            torch.manual_seed(0)
            results[check.__name__] = _run(check, subject)
    return results


def _run(check: Callable[[Subject], None], subject: Subject) -> str:
    try:
        check(subject)
    except NotApplicable as reason:
        return f"does not apply: {reason}"
    except AssertionError:
        raise
    except Exception as error:
        number = (check.__doc__ or "").partition(":")[0]
        what = (check.__doc__ or "").strip().partition(": ")[2]
        raise AssertionError(
            f"{number}: the check ({what}) ended with {type(error).__name__}: {error}"
        ) from error
    return "passed"
