"""RunConfig: one YAML file that says everything about a run: a Spec and the components' configs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from recmtl._checks import suggest
from recmtl._files import write_json, write_text
from recmtl.embeddings.config import EmbeddingConfig
from recmtl.errors import SpecError
from recmtl.spec import Problem, Spec, StrictModel
from recmtl.spec.checks import TABLELESS, entries, text
from recmtl.spec.docs import fill_tables
from recmtl.spec.dump import to_yaml
from recmtl.spec.schema import editor_schema
from recmtl.spec.yaml_loader import load_yaml
from recmtl.tasks import TaskDef, Thinning
from recmtl.tasks.sampling import corrections
from recmtl.towers import InteractionConfig, NoneConfig, StackConfig, TowerConfig, WideConfig

__all__ = [
    "ObjectiveConfig",
    "RunConfig",
    "SequenceConfig",
    "TrainConfig",
    "differences",
    "dump_yaml",
    "fingerprint",
    "json_schema",
    "load_spec",
]

_BETTER: Mapping[str, Mapping[str, Literal["max", "min"]]] = {
    "binary": {"auc": "max", "gauc": "max", "logloss": "min", "ne": "min", "ece": "min"},
    "regression": {"rmse": "min", "mae": "min"},
    "multiclass": {"ne": "min", "logloss": "min", "accuracy": "max"},
}
"""Metrics that can be monitored, and which way is better, by kind of task."""

_REFUSED_PRECISION = {
    "16": (
        "scaled fp16 gradients would reach the tables unscaled, and a step that is skipped would "
        "still move them"
    ),
    "true": "tables are stored and updated in fp32",
}
_REFUSED_SHARDING = {
    "data_parallel": "it leaves the fused update in silence, and the table would not train",
    "column_wise": "row-wise Adagrad would keep another state for each column shard",
    "table_column_wise": "row-wise Adagrad would keep another state for each column shard",
    "grid_shard": "it gives sums where means are asked for",
}


_NO_NUMBER = ("compile", "devices", "loggers", "sharding")
"""Keys of `train` that decide where and how it is done and what is logged, and no number."""


def _refuse_sharding(kind: Any) -> Any:
    if isinstance(kind, str) and kind in _REFUSED_SHARDING:
        allowed = "`table_wise`, `row_wise` or `table_row_wise`"
        raise ValueError(f"must be {allowed}, got `{kind}`: {_REFUSED_SHARDING[kind]}.")
    return kind


Sharding = Annotated[
    Literal["table_wise", "row_wise", "table_row_wise"], BeforeValidator(_refuse_sharding)
]
"""How a table is spread over processes."""


class ObjectiveConfig(StrictModel):
    """Which tasks carry loss."""

    kind: Literal["tasks", "entire_space"] = "tasks"
    """`tasks`: every task without `product_of`, on the rows where it is observed. `entire_space`:
    products carry loss, and a conditional task that is a factor of a product learns through the
    product alone, as in ESMM."""


class SequenceConfig(StrictModel):
    """How sequences enter the input vector."""

    kind: Literal["mean", "din"] = "mean"
    """`mean`: the mean of the items; `din`: their sum, weighted by how they go with the target."""


class TrainConfig(StrictModel):
    """How the model is trained."""

    reserved: ClassVar[frozenset[str]] = frozenset({"warmup"})

    batch_size: int = Field(default=4096, ge=1)
    """Rows of a global batch, over all processes; a multiple of `streams`."""
    epochs: int = Field(default=1, ge=1)
    """How often the training rows are read."""
    lr: float = Field(default=0.001, gt=0)
    """Learning rate of the dense parameters; that of the tables is `embedding.lr`."""
    optimizer: Literal["adam", "adamw", "sgd", "adagrad"] = "adam"
    """Optimizer of the dense parameters; that of the tables is `embedding.optimizer`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the dense parameters; tables have `embedding.l2`."""
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient of all dense parameters together; tables are not clipped."""
    embedding: EmbeddingConfig = Field(default_factory=EmbeddingConfig)
    """How tables are initialised and updated."""
    monitor: str | None = None
    """`<task>/<metric>` on the validation rows by which the best checkpoint is chosen, such as
    `cvr/auc`. Default: `auc` of the first task, `rmse` of a regression, `ne` of a multiclass
    task."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs in a row without a better `monitor`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides initial weights, the order of rows and dropout."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the dense part: fp32, or bf16 where it is safe; weights and tables stay in
    fp32. On GPUs and CPUs with instructions for it (AVX512-BF16, AMX) bf16 is faster, elsewhere it
    is slower. Scoring is in fp32."""
    compile: Literal["none", "graphs", "compile"] = "none"
    """How the tower and the loss run in training: as they are, as CUDA graphs (a GPU, one process),
    or through `torch.compile`. Where it cannot work, training says so and goes on without. Results
    are the same up to rounding (compiled dropout draws other units)."""
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints. Default: a tenth of an epoch, or more where saving would take more
    than a fortieth of the time."""
    devices: int | None = Field(default=None, ge=1)
    """Processes that train together, one a device: GPUs where there are any, else the CPU. Default:
    one, or as many as `torchrun` started. Batches and results are those of one process (dropout
    draws other units), and an interrupted run may go on with another number."""
    sharding: dict[str, Sharding] = Field(default_factory=dict)
    """How named tables are spread over processes, such as `{item_id: row_wise}`; the planner
    decides for the others."""
    loggers: tuple[Literal["csv", "tensorboard"], ...] = ("csv",)
    """Where losses and metrics are logged besides `metrics.jsonl`."""
    streams: int = Field(default=8, ge=1, le=4096)
    """Parts of the log that are read side by side; the number of processes must divide it."""
    normalize: Literal["rows", "observed"] = "rows"
    """`rows` divides every task's loss by the weight of all rows, so that each row speaks once for
    each event it shows; `observed` divides it by the weight of the rows where the task is
    observed."""

    @field_validator("precision", mode="before")
    @classmethod
    def _refuse_precision(cls, precision: Any) -> Any:
        for part, reason in _REFUSED_PRECISION.items():
            if (
                isinstance(precision, str)
                and precision != "32-true"
                and part in precision.split("-")
            ):
                raise ValueError(
                    f"must be `32-true` or `bf16-mixed`, got the string `{precision}`: tables are "
                    f"updated during backward, so {reason}."
                )
        return precision


def _default_objective(data: Mapping[str, Any]) -> ObjectiveConfig:
    """`entire_space` for an ESMM tower over a product, else `tasks`."""
    products = any(task.product_of for task in data.get("tasks", ()))
    is_esmm = getattr(data.get("tower"), "kind", None) == "esmm"
    return ObjectiveConfig(kind="entire_space" if is_esmm and products else "tasks")


class RunConfig(Spec):
    """Everything about a run."""

    reserved: ClassVar[frozenset[str]] = Spec.reserved | {
        "balance",
        "scores",
    }
    shorthands: ClassVar[tuple[str, ...]] = (
        "tower",
        "objective",
        "interaction",
        "wide",
        "sequence",
        "tower.head",
    )

    tower: Annotated[TowerConfig, Field(discriminator="kind")]
    """The network from features to logits; `ple` is short for `{kind: ple}`."""
    interaction: Annotated[InteractionConfig, Field(discriminator="kind")] = Field(
        default_factory=NoneConfig
    )
    """Products of features below the tower; `dcnv2` is short for `{kind: dcnv2}`."""
    wide: Annotated[WideConfig, Field(discriminator="kind")] = Field(default_factory=NoneConfig)
    """A model of low order beside the tower, whose logits are added to the tower's."""
    sequence: SequenceConfig = Field(default_factory=SequenceConfig)
    """How sequences enter the input vector; `din` is short for `{kind: din}`."""
    objective: ObjectiveConfig = Field(default_factory=_default_objective)
    """Which tasks carry loss; `entire_space` is short for `{kind: entire_space}`. Default: `tasks`,
    but `entire_space` for the tower `esmm`."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """How the model is trained."""

    @classmethod
    def problems(cls, data: Mapping[str, Any]) -> list[Problem]:
        """What is wrong between features, tasks, objective and training."""
        found = [*super().problems(data), *_network_problems(data), *_objective_problems(data)]
        found += _sampled_problems(data)
        return [*found, *_train_problems(data)]

    @property
    def network(self) -> TowerConfig | StackConfig:
        """The tower, with what stands below and beside it."""
        if isinstance(self.interaction, NoneConfig) and isinstance(self.wide, NoneConfig):
            return self.tower
        return StackConfig(tower=self.tower, interaction=self.interaction, wide=self.wide)

    @property
    def monitor(self) -> str | None:
        """`train.monitor` or its default, such as `ctr/auc`; `None` without validation rows."""
        if self.data.valid is None:
            return None
        first = self.tasks[0]
        default = {"binary": "auc", "regression": "rmse", "multiclass": "ne"}[first.kind]
        return self.train.monitor or f"{first.name}/{default}"

    @property
    def monitor_mode(self) -> Literal["max", "min"]:
        """Whether more or less of the monitored metric is better."""
        metric = (self.monitor or "/auc").rpartition("/")[2]
        return next(modes[metric] for modes in _BETTER.values() if metric in modes)


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a spec file.

    Args:
        path: the YAML file; `feature_specs/README.md` explains every key.
        overrides: `key.sub=value` each, such as `train.lr=0.01`, `tower=ple` or
            `features.user_id.dim=8`.

    Raises:
        SpecError: with every problem, each with file and line.

    Example:
        .. code-block:: python

            config = recmtl.load_spec("feature_specs/x.yaml", ["tower=mmoe", "train.epochs=3"])
    """
    return load_yaml(RunConfig, path, overrides)


def dump_yaml(config: StrictModel) -> str:
    """A spec as YAML, every default written out; reading it gives an equal object."""
    return to_yaml(config)


def fingerprint(config: StrictModel) -> str:
    """The sha256 of everything in a spec that decides results, defaults included.

    Neither the file's spelling counts, nor what says where tables are placed, how the dense part
    runs and where losses are logged: a run may go on with other `train.devices`, `train.sharding`,
    `train.compile` and `train.loggers`.
    """
    said = config.model_dump(mode="json")
    if isinstance(config, RunConfig):
        said["train"] = {key: v for key, v in said["train"].items() if key not in _NO_NUMBER}
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def differences(first: StrictModel, second: StrictModel) -> list[str]:
    """Keys in which two specs differ, such as `train.lr`, as far as `fingerprint` knows them."""
    one, other = (_leaves(config.model_dump(mode="json")) for config in (first, second))
    hidden = {f"train.{key}" for key in _NO_NUMBER}
    return sorted(key for key in {*one, *other} - hidden if one.get(key) != other.get(key))


def _leaves(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of two levels of a spec, by their keys; lists of features and tasks are values."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        inside = isinstance(value, dict) and not prefix and key != "sharding"
        found |= _leaves(value, f"{key}.") if inside else {f"{prefix}{key}": value}
    return found


def json_schema() -> dict[str, Any]:
    """JSON schema of a spec file, for editors (`# yaml-language-server: $schema=schema.json`)."""
    return editor_schema(RunConfig)


def write_reference(folder: Path) -> None:
    """Write `schema.json`, and the tables of keys in `README.md`, into `feature_specs/`."""
    page = folder / "README.md"
    write_text(page, fill_tables(page.read_text(encoding="utf-8"), RunConfig))
    write_json(folder / "schema.json", json_schema())


def _network_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    tower, below = _section(data, "tower").get("kind"), _section(data, "interaction").get("kind")
    if tower == "dtrn" and below not in (None, "none"):
        message = (
            f"`interaction` must be `none` below `dtrn`, which reads fields and no vector, got "
            f"`{below}`."
        )
        yield Problem(("interaction",), message)


def _objective_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    objective = _section(data, "objective")
    products = [task for _, task in entries(data, "tasks") if task.get("product_of") is not None]
    if objective.get("kind") == "entire_space" and not products:
        message = (
            "`objective: entire_space` needs a task with `product_of`, such as that of ctr and cvr."
        )
        yield Problem(("objective",), message)


def _sampled_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    rows = _section(data, "data")
    thinned = [key for key in ("sampled", "sample") if _section(_section(rows, key), "keep")]
    shares = [_section(_section(rows, key), "keep") for key in thinned]
    tasks = [task for _, task in entries(data, "tasks")]
    labels = {column for task in tasks for column in (text(task, "label"), text(task, "given"))}
    for keep in shares:
        is_sound = all(isinstance(share, int | float) and 0 < share <= 1 for share in keep.values())
        if not is_sound or not {"else"} < keep.keys() <= {"else", *labels}:
            return  # said elsewhere
    try:
        defs = [
            TaskDef(
                name=task["name"],
                label=task["label"],
                kind=task.get("kind", "binary"),
                given=task.get("given"),
                product_of=tuple(task.get("product_of") or ()),
            )
            for task in tasks
        ]
        corrections(defs, list(map(Thinning.of, shares)))
    except SpecError as error:
        for line in str(error).splitlines():
            yield Problem(("data", thinned[-1]), line)
    except (KeyError, TypeError):
        return  # a task is wrong in another way


def _train_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    train, rows = _section(data, "train"), _section(data, "data")
    batch_size, streams = train.get("batch_size", 4096), train.get("streams", 8)
    both = isinstance(batch_size, int) and isinstance(streams, int) and streams > 0
    if both and batch_size % streams:
        message = (
            "`batch_size` must be a multiple of `streams`, each of which gives an equal share of a "
            f"batch: got {batch_size} and {streams}. "
            f"Write {max(1, round(batch_size / streams)) * streams}, for example."
        )
        yield Problem(("train", "batch_size" if "batch_size" in train else "streams"), message)
    given = _section(train, "embedding")
    numbers = (batch_size, given.get("lr", EmbeddingConfig().lr), given.get("prior", 0.0))
    if given.get("optimizer") == "sgd" and all(isinstance(n, int | float) for n in numbers):
        rows_of_batch, lr, prior = numbers
        if lr > 0 and prior > rows_of_batch / lr:
            message = (
                f"`prior` must be at most {rows_of_batch / lr:g}, `batch_size` over the tables'"
                " `lr`, where their `optimizer` is `sgd`: a longer step overshoots zero. Got "
                f"{prior:g}."
            )
            yield Problem(("train", "embedding"), message)
    devices = train.get("devices")
    if isinstance(devices, int) and isinstance(streams, int) and devices > 0 < streams % devices:
        fewer = max(n for n in range(1, devices) if streams % n == 0)
        message = (
            "`devices` must divide `streams`, of which each process reads an equal number: got "
            f"{devices} and {streams}. Write `devices: {fewer}`, or a multiple of {devices} as "
            "`streams`."
        )
        yield Problem(("train", "devices"), message)
    for key in ("monitor", "patience"):
        if train.get(key) is not None and rows.get("valid") is None:
            message = f"`{key}` needs validation rows. Give `data.valid`, or leave `{key}` out."
            yield Problem(("train", key), message)
    monitor = text(train, "monitor")
    if monitor is not None:
        yield from _monitor_problems(data, monitor, grouped=rows.get("group_by") is not None)
    loggers = train.get("loggers")
    if isinstance(loggers, list | tuple) and len({str(name) for name in loggers}) < len(loggers):
        yield Problem(("train", "loggers"), "`loggers` must name a logger once.")
    tables = [
        name
        for _, f in entries(data, "features")
        if text(f, "type") not in TABLELESS
        and (name := text(f, "name"))
        and f.get("table") in (None, name)
    ]
    for table in _section(train, "sharding"):
        if table not in tables:
            message = f"`sharding` must name tables, got `{table}`.{suggest(table, tables)}"
            yield Problem(("train", "sharding", table), message)


def _monitor_problems(data: Mapping[str, Any], monitor: str, *, grouped: bool) -> Iterator[Problem]:
    path = ("train", "monitor")
    tasks = [task for _, task in entries(data, "tasks")]
    kinds = {text(task, "name") or "": str(task.get("kind", "binary")) for task in tasks}
    name, slash, metric = monitor.partition("/")
    if not slash:
        example = f"{next(iter(kinds), 'ctr')}/auc"
        message = f"`monitor` must be `<task>/<metric>`, such as `{example}`, got `{monitor}`."
        yield Problem(path, message)
    elif name == "valid" and "/" in metric:
        yield Problem(path, f"`monitor` leaves `valid/` out. Write `{metric}`.")
    elif name not in kinds:
        message = f"`monitor` must begin with a task, got `{name}`.{suggest(name, kinds)}"
        yield Problem(path, message)
    elif kinds[name] in _BETTER and metric not in (metrics := _BETTER[kinds[name]]):
        listed = ", ".join(f"`{m}`" for m in metrics)
        message = (
            f"`monitor` of the {kinds[name]} task `{name}` must be one of {listed}, got `{metric}`."
        )
        yield Problem(path, message + suggest(metric, metrics))
    elif metric == "gauc" and not grouped:
        yield Problem(path, "`monitor` is `gauc`, which needs the groups of `data.group_by`.")


def _section(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


if __name__ == "__main__":  # `make docs`
    write_reference(Path("feature_specs"))
