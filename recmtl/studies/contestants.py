"""Who is compared: towers and baselines, each with the specs of its models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recmtl._checks import suggest
from recmtl.config import ObjectiveConfig, RunConfig, SequenceConfig, dump_yaml, load_spec
from recmtl.errors import SpecError
from recmtl.spec import Task
from recmtl.spec.yaml_loader import parse_yaml
from recmtl.towers import TOWERS, ESMMConfig, NoneConfig, requires_of

__all__ = [
    "ADDITIVE",
    "OBJECTIVES",
    "SINGLE_TASK",
    "Contestant",
    "PlannedRun",
    "contestants_of",
    "loaded_spec",
]

SINGLE_TASK, ADDITIVE = "single_task", "additive"
OBJECTIVES = ("tasks", "entire_space")
_KINDS = {tower().kind: tower for tower in TOWERS}
_ELSEWHERE = {
    "tower": "`--towers` names what is compared",
    "objective": "`--objectives` names what is compared",
    "train.seed": "`--seeds` decides it",
}
_TRUNK = "shared_bottom"
_METRICS = {"binary": "auc", "regression": "rmse", "multiclass": "ne"}


@dataclass(frozen=True)
class PlannedRun:
    """One run to train."""

    name: str
    config: RunConfig
    contestant: str
    seed: int


@dataclass(frozen=True)
class Contestant:
    """A tower with an objective, or a baseline.

    Attributes:
        name: such as `ple-tasks`.
        tower: kind of its tower.
        objective: which tasks carry loss.
        models: name -> spec; of `single_task` a model for each task, of all others one.
    """

    name: str
    tower: str
    objective: str
    models: Mapping[str, RunConfig]

    @property
    def is_baseline(self) -> bool:
        """Whether it is there to be compared with."""
        return self.name in (SINGLE_TASK, ADDITIVE)

    def runs(self, seeds: int) -> Iterator[PlannedRun]:
        """A run for each model and seed."""
        for seed in range(seeds):
            for name, config in self.models.items():
                yield self.run(name, config, seed)

    def run(self, model: str, config: RunConfig, seed: int) -> PlannedRun:
        """The run of a model with a seed."""
        train = config.train.model_copy(update={"seed": seed})
        config = config.model_copy(update={"train": train})
        return PlannedRun(f"{model}-{seed}", config, self.name, seed)


def contestants_of(
    spec: str | Path | RunConfig,
    overrides: Sequence[str] = (),
    *,
    towers: Sequence[str] = (),
    objectives: Sequence[str] = (),
    baselines: bool = True,
) -> tuple[RunConfig, list[Contestant], list[str]]:
    """What a comparison consists of.

    An override `tower.KEY=VALUE` goes to every tower that has such a key. The spec's own tower
    keeps the sizes that the spec gives it; other towers have their defaults.

    Args:
        spec: a spec file, or a config.
        overrides: changes of the spec.
        towers: kinds of towers (default: that of the spec).
        objectives: `tasks`, `entire_space` (default: that of the spec).
        baselines: whether `single_task` and `additive` take part.

    Returns:
        The spec with its overrides, the contestants, and what was left out and why.

    Raises:
        SpecError: the spec, an override or an argument is wrong, or nothing is left to compare.
    """
    _require_known(towers, objectives)
    of_tower = [text for text in overrides if _key(text).startswith("tower.")]
    others = [text for text in overrides if text not in of_tower]
    _require_no_choice(others)
    given = loaded_spec(spec, others)
    base = _as_it_is(given)
    kinds = list(dict.fromkeys(towers)) or [base.tower.kind]
    _require_some_take(of_tower, [*kinds, *([_TRUNK] if baselines else [])])

    def of_kind(kind: str, more: Sequence[str] = ()) -> RunConfig:
        mine = [text for text in of_tower if _field(text) in _keys(kind)]
        chosen = [] if kind == base.tower.kind else [f"tower={kind}"]
        return _as_it_is(loaded_spec(spec, [*others, *chosen, *mine, *more]))

    found, left_out = list[Contestant](), list[str]()
    if given.data.sampled is not None:
        left_out.append(
            "`data.sampled`: no model is corrected; each says what it learnt of the thinned rows."
        )
    if given.data.sample is not None:
        left_out.append("`data.sample`: models learn from all training rows.")
    has_products = any(task.product_of for task in base.tasks)
    for kind in kinds:
        if "sequences" in requires_of(_KINDS[kind]()) and not base.sequences:
            left_out.append(f"{kind}: it needs a behaviour sequence; the spec has none.")
            continue
        for objective in dict.fromkeys(objectives) or (None,):
            if objective == "entire_space" and not has_products:
                left_out.append(f"{kind}-{objective}: no task of the spec has `product_of`.")
                continue
            config = of_kind(kind, [] if objective is None else [f"objective={objective}"])
            name = f"{kind}-{config.objective.kind}"
            found.append(Contestant(name, kind, config.objective.kind, {name: config}))
    if not found:
        raise SpecError("\n".join(f"nothing to compare: {words}" for words in left_out))
    if baselines:
        found += [_single_task(base, of_kind(_TRUNK)), _additive(base)]
    return base, found, left_out


def _single_task(base: RunConfig, trunk: RunConfig) -> Contestant:
    """For every task a model of its own, which learns nothing of the others."""
    models = {}
    for task in base.tasks:
        alone = task.model_copy(update={"product_of": None, "weight": 1.0, "group": "all"})
        config = trunk.model_copy(
            update={
                "tasks": (alone,),
                "objective": ObjectiveConfig(kind="tasks"),
                "train": trunk.train.model_copy(update={"monitor": _monitor(base, task)}),
            }
        )
        models[f"{SINGLE_TASK}-{task.name}"] = _checked(config)
    return Contestant(SINGLE_TASK, _TRUNK, "tasks", models)


def _additive(base: RunConfig) -> Contestant:
    """Logits that are linear in embeddings and numbers: no feature changes what another says."""
    config = base.model_copy(
        update={
            "tower": ESMMConfig(head_widths=()),
            "interaction": NoneConfig(),
            "wide": NoneConfig(),
            "sequence": SequenceConfig(),
            "objective": ObjectiveConfig(kind="tasks"),
        }
    )
    return Contestant(ADDITIVE, "esmm", "tasks", {ADDITIVE: _checked(config)})


def _monitor(base: RunConfig, task: Task) -> str | None:
    """What chooses the best checkpoint of a task's own model: the spec's metric, if it has it."""
    if base.monitor is None:
        return None
    name, _, metric = base.monitor.rpartition("/")
    kind = next(other.kind for other in base.tasks if other.name == name)
    return f"{task.name}/{metric if kind == task.kind else _METRICS[task.kind]}"


def _checked(config: RunConfig) -> RunConfig:
    """The same, once it was read as a spec is."""
    return parse_yaml(RunConfig, dump_yaml(config), source=config.name)


def _as_it_is(config: RunConfig) -> RunConfig:
    """The same without rows thinned: a single task may lack what its correction takes."""
    rows = config.data.model_copy(update={"sampled": None, "sample": None})
    return config.model_copy(update={"data": rows})


def loaded_spec(spec: str | Path | RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A spec file, or a config, with overrides."""
    if isinstance(spec, RunConfig):
        return parse_yaml(RunConfig, dump_yaml(spec), source=spec.name, overrides=overrides)
    return load_spec(spec, overrides)


def _require_known(towers: Sequence[str], objectives: Sequence[str]) -> None:
    problems = []
    for what, names, known in (
        ("towers", towers, list(_KINDS)),
        ("objectives", objectives, list(OBJECTIVES)),
    ):
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise SpecError(f"{what}: must be a list of names such as {known[:2]}, got {names!r}.")
        listed = ", ".join(f"`{name}`" for name in known)
        problems += [
            f"{what}: `{name}` is none of {listed}.{suggest(name, known)}"
            for name in dict.fromkeys(names)
            if name not in known
        ]
    if problems:
        raise SpecError.all_of(problems)


def _require_no_choice(overrides: Sequence[str]) -> None:
    problems = [
        f"`{text}`: {why}; leave the override out."
        for text in overrides
        for key, why in _ELSEWHERE.items()
        if _key(text) == key or _key(text).startswith(f"{key}.")
    ]
    if problems:
        raise SpecError.all_of(problems)


def _require_some_take(overrides: Sequence[str], kinds: Sequence[str]) -> None:
    keys = list(dict.fromkeys(key for kind in kinds for key in _keys(kind)))
    listed = ", ".join(f"`{kind}`" for kind in dict.fromkeys(kinds))
    problems = [
        f"`{text}`: none of the towers {listed} has the key `{_field(text)}`."
        f"{suggest(_field(text), keys)}"
        for text in overrides
        if _field(text) not in keys
    ]
    if problems:
        raise SpecError.all_of(problems)


def _keys(kind: str) -> list[str]:
    return [field.name for field in dataclasses.fields(_KINDS[kind]) if field.name != "kind"]


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _field(override: str) -> str:
    return _key(override).split(".")[1]
