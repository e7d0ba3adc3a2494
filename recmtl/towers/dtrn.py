"""Deep Task-specific Bottom Representation Network.

Shape letters: B rows, D width of a representation, E embedding width, T tasks, F fields, M
behaviours, K = F + M vectors of a task, R units of a squeeze, O logits of all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from recmtl._checks import ByKind, require_one_of, require_positive
from recmtl.towers.expert_bank import ExpertRef
from recmtl.towers.inputs import InputDims, TaskSlot, TowerInput
from recmtl.towers.interests import Encoder, HyperMode, Interests
from recmtl.towers.parameters import by_task, uniform_
from recmtl.towers.registry import VECTOR_TOWERS, VectorTowerConfig
from recmtl.towers.shared_bottom import SharedBottomConfig
from recmtl.towers.tower import Tower

__all__ = ["DTRN", "DTRNConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DTRNConfig:
    """Sizes of a DTRN bottom, and the tower on it."""

    kind: Literal["dtrn"] = "dtrn"
    head: Annotated[VectorTowerConfig, ByKind()] = field(default_factory=SharedBottomConfig)
    """The tower that reads each task's representation; `ple` is short for `{kind: ple}`."""
    hyper_mode: HyperMode = "film"
    """What of a sequence's encoder depends on the task: `film`, scales and shifts of its layer
    norm; `lowrank`, a small core in its map; both made by a hypernetwork; `full`, all of it, held
    for each task and behaviour."""
    encoder: Encoder = "target"
    """`target`: items are compared with the target; `self+target`: with each other before."""
    num_attention_heads: int = 2
    """Heads of the attention among items, `encoder: self+target`; must divide `field_dim`."""
    rank: int = 4
    """Rank of `hyper_mode: lowrank`."""
    refinement: bool = True
    """Whether each task re-weighs the vectors that it reads."""
    reduction: int = 4
    """By how many times the squeeze of a re-weighing is narrower than the number of vectors."""
    gate: Literal["2sigmoid", "sigmoid", "relu"] = "2sigmoid"
    """What makes weights of a re-weighing; `2sigmoid` starts at 1."""
    field_dim: int | None = None
    """Common width of fields, items and target; by default the commonest `dim` of the spec."""

    def __post_init__(self) -> None:
        require_positive(
            num_attention_heads=self.num_attention_heads, rank=self.rank, reduction=self.reduction
        )
        if self.field_dim is not None:
            require_positive(field_dim=self.field_dim)
        require_one_of(("film", "lowrank", "full"), hyper_mode=self.hyper_mode)
        require_one_of(("target", "self+target"), encoder=self.encoder)
        require_one_of(("2sigmoid", "sigmoid", "relu"), gate=self.gate)
        if type(self.head) not in VECTOR_TOWERS:
            listed = ", ".join(f"`{known.__name__}`" for known in VECTOR_TOWERS)
            raise ValueError(f"`head` must be one of {listed}, got {self.head!r}.")


class DTRN(Tower):
    r"""A representation of its own for each task, below any other tower.

    .. math:: r_{i,j} = \text{interest of task i in behaviour j}, \qquad
        e_i = [e_1; \dots; e_F; r_{i,1}; \dots; r_{i,M}]

    .. math:: z_k = \operatorname{mean}(e_{i,k}), \qquad
        s_i = 2\sigma(\operatorname{relu}(z\, W^1_i)\, W^2_i), \qquad
        X_i = \operatorname{concat}_k\, s_{i,k}\, e_{i,k}, \qquad
        \text{logit}_i = \operatorname{head}(X_i)_i

    with interests as `Interests` says. The head, a tower of all tasks, reads the representations
    folded into the rows, and logit i of copy i is kept.

    Reference: Liu et al., "Deep Task-specific Bottom Representation Network for Multi-Task
        Recommendation", CIKM 2023. arXiv:2308.05996
    Departures: A reconstruction: of the paper its abstract and a review of its figure were at hand,
        and no public implementation is known. What the hypernetwork makes (`hyper_mode`), whether
        items attend to each other (`encoder`), the form of the gate (`gate`), and that every head
        reads every task's representation are choices of ours.
    Shape: `TowerInput` with fields, sequences and target -> ``(B, O)`` logits.

    Example:
        >>> dims = InputDims(x=8, fields=("user", "item"), field_dim=4, sequences={"clicks": 3})
        >>> tower = DTRN(DTRNConfig(), in_dim=dims, tasks=("click", "like"))
        >>> rows = TowerInput(
        ...     torch.zeros(5, 8),
        ...     fields_BFE=torch.zeros(5, 2, 4),
        ...     sequences={"clicks": (torch.zeros(5, 3, 4), torch.tensor([0, 1, 2, 3, 3]))},
        ...     target_BE=torch.zeros(5, 4),
        ... )
        >>> tower(rows).shape
        torch.Size([5, 2])
    """

    requires = frozenset({"fields", "sequences", "target"})
    kept_O: Tensor

    def __init__(
        self, config: DTRNConfig, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        """Build the tower.

        Args:
            config: its sizes, and its head's.
            in_dim: sizes of the input, with fields and sequences.
            tasks: task names, or slots.
        """
        super().__init__(config, in_dim=in_dim, tasks=tasks)
        if not isinstance(in_dim, InputDims) or not in_dim.fields or not in_dim.sequences:
            raise ValueError(
                f"`in_dim` must be `InputDims` with `fields` and `sequences`, got {in_dim!r}."
            )
        dim, behaviours = in_dim.field_dim, tuple(in_dim.sequences)
        if config.encoder == "self+target" and dim % config.num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must divide the field width {dim}, got "
                f"{config.num_attention_heads}."
            )
        self.interests = Interests(
            dim,
            tasks=self.task_names,
            behaviours=behaviours,
            mode=config.hyper_mode,
            encoder=config.encoder,
            num_attention_heads=config.num_attention_heads,
            rank=config.rank,
        )
        self.vectors = (*in_dim.fields, *behaviours)
        self.refinement = (
            _Refinement(self.task_names, len(self.vectors), config) if config.refinement else None
        )
        self.head = VECTOR_TOWERS[type(config.head)](
            config.head, in_dim=len(self.vectors) * dim, tasks=self.tasks
        )
        outputs = [slot.outputs for slot in self.tasks]
        of_task = torch.arange(len(outputs)).repeat_interleave(torch.tensor(outputs))
        kept_O = of_task * sum(outputs) + torch.arange(sum(outputs))
        self.register_buffer("kept_O", kept_O, persistent=False)

    def forward(self, x: TowerInput) -> Tensor:
        """Logits ``(B, O)``."""
        x_BTD = self.representations(x)
        logits_BTO: Tensor = self.head(x_BTD.flatten(0, 1)).unflatten(0, (-1, len(self.tasks)))
        return logits_BTO.flatten(1).index_select(1, self.kept_O)

    def representations(self, x: TowerInput) -> Tensor:
        """What the head reads for each task, ``(B, T, D)``."""
        vector_BTKE = self._vectors(x)
        if self.refinement is not None:
            vector_BTKE = vector_BTKE * self.refinement(vector_BTKE).unsqueeze(3)
        return vector_BTKE.flatten(2)

    def _vectors(self, x: TowerInput) -> Tensor:
        assert x.fields_BFE is not None
        assert x.sequences is not None
        assert x.target_BE is not None
        interest_BTME = self.interests(x.sequences, x.target_BE)
        field_BTFE = x.fields_BFE.unsqueeze(1).expand(-1, len(self.tasks), -1, -1)
        return torch.cat([field_BTFE, interest_BTME], dim=2)

    def set_base_rates(self, rates: Mapping[str, float | Sequence[float]]) -> None:
        """Let heads start at known rates (see `Tower.set_base_rates`)."""
        self.head.set_base_rates(rates)

    @torch.no_grad()
    def explain(self, x: TowerInput) -> dict[str, Tensor]:  # type: ignore[override]
        """The head's gates and experts, each task's on its own representation.

        ``refinement/<task>`` are the weights ``(B, K)`` of its vectors: fields, then behaviours.
        What belongs to no task is averaged over the tasks' representations.
        """
        vector_BTKE, num_tasks = self._vectors(x), len(self.tasks)
        found = dict[str, Tensor]()
        if self.refinement is not None:
            weight_BTK = self.refinement(vector_BTKE)
            found |= {f"refinement/{name}": weight_BTK[:, t] for t, name in self._numbered()}
        number = {name: t for t, name in self._numbered()}
        for key, value in self.head.explain(self.representations(x).flatten(0, 1)).items():
            if "/experts/" in f"/{key}":
                found[key] = value
                continue
            by_copy = value.unflatten(0, (-1, num_tasks))
            task = key.rpartition("/")[2]
            found[key] = by_copy[:, number[task]] if task in number else by_copy.mean(dim=1)
        return found

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        """The head's experts."""
        return tuple(
            ref._replace(parameters=tuple((f"head.{key}", i) for key, i in ref.parameters))
            for ref in self.head.expert_refs()
        )

    def _numbered(self) -> list[tuple[int, str]]:
        return list(enumerate(self.task_names))


class _Refinement(nn.Module):
    """Each task's weights of its vectors: ``(B, T, K, E)`` -> ``(B, T, K)``."""

    def __init__(self, tasks: Sequence[str], num_vectors: int, config: DTRNConfig) -> None:
        super().__init__()
        units, self.gate = max(num_vectors // config.reduction, 1), config.gate
        self.task_squeeze = by_task(
            {t: uniform_(torch.empty(num_vectors, units), fan_in=num_vectors) for t in tasks}
        )
        starts_at_zero = config.gate != "relu"  # which would stay there
        self.task_excite = by_task(
            {
                t: nn.Parameter(torch.zeros(units, num_vectors))
                if starts_at_zero
                else uniform_(torch.empty(units, num_vectors), fan_in=units)
                for t in tasks
            }
        )

    def forward(self, vector_BTKE: Tensor) -> Tensor:
        """The weights."""
        squeeze_TKR = torch.stack(list(self.task_squeeze.values()))
        excite_TRK = torch.stack(list(self.task_excite.values()))
        mean_TBK = vector_BTKE.mean(dim=3).transpose(0, 1)
        logits_BTK = torch.bmm(torch.bmm(mean_TBK, squeeze_TKR).relu(), excite_TRK).transpose(0, 1)
        if self.gate == "relu":
            return logits_BTK.relu()
        return logits_BTK.sigmoid() * (2.0 if self.gate == "2sigmoid" else 1.0)
