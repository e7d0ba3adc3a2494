"""Names that tasks may have: they become keys of torch's dicts of modules, metrics and columns."""

from __future__ import annotations

import re

__all__ = ["MODULE_NAMES", "task_name_problem"]

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

# fmt: off
MODULE_NAMES = frozenset({
    "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children",
    "clear", "compile", "copy", "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr",
    "float", "forward", "fromkeys", "get", "get_buffer", "get_extra_state", "get_parameter",
    "get_submodule", "half", "ipu", "items", "keys", "load_state_dict", "modules", "mtia",
    "named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "pop",
    "popitem", "register_backward_hook", "register_buffer", "register_forward_hook",
    "register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook",
    "register_load_state_dict_post_hook", "register_load_state_dict_pre_hook", "register_module",
    "register_parameter", "register_state_dict_post_hook", "register_state_dict_pre_hook",
    "requires_grad_", "set_extra_state", "set_submodule", "setdefault", "share_memory",
    "state_dict", "to", "to_empty", "train", "training", "type", "update", "values", "xpu",
    "zero_grad",
})
# fmt: on
"""Public attributes of torch's modules and their dicts, which cannot be keys of them."""


def task_name_problem(name: str, key: str = "name") -> str | None:
    """What is wrong with the name of a task, or of its group, if anything.

    Args:
        name: the name.
        key: where it stands, `name` or `group`.

    Example:
        >>> task_name_problem("ctr") is None
        True
        >>> task_name_problem("train")
        '`name` must not be `train`, which torch uses itself. Write `train_task`, for example.'
    """
    if _IDENTIFIER.fullmatch(name) is None:
        return f"`{key}` must be a letter and then letters, digits and underscores, got `{name}`."
    if name in MODULE_NAMES:
        return (
            f"`{key}` must not be `{name}`, which torch uses itself. "
            f"Write `{name}_{'task' if key == 'name' else key}`, for example."
        )
    return None
