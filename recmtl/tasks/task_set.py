"""TaskSet: who is observed where, what trains whom, and what a tower's logits say. Torch only.

Shape letters: B rows, T tasks, H logits of all heads (a multiclass task has one for each class),
S heads with one logit, P products, F factors of a product, K label columns, C classes, O columns of
what is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from recmtl._checks import require_one_of
from recmtl.losses import (
    binary_nll,
    joint_likelihood,
    multiclass_nll,
    product_log_odds,
    product_log_prob,
    product_nll,
    squared_error,
)
from recmtl.losses._precision import at_least_float32
from recmtl.tasks.calibrator import Calibration, Calibrator
from recmtl.tasks.definition import TaskDef, carriers, check_tasks, check_trained, factors_of
from recmtl.tasks.layout import lay_out, side_by_side
from recmtl.tasks.sampling import Thinning, corrections, log_rate, row_rates

__all__ = ["LossTerms", "TaskSet"]


class LossTerms(NamedTuple):
    """The loss and what each task adds to it; both carry gradients."""

    total: Tensor
    """Scalar: the sum of the terms."""
    by_task: dict[str, Tensor]
    """The term of each task that carries loss, its weight included."""


class TaskSet(nn.Module):
    r"""All tasks of a model: populations, targets, loss and probabilities.

    A row is observed for a task where the task's `given` is 1, its label is not null and the row's
    weight is above 0. So a product is observed by its own label (and `given`, if it has one),
    whatever its factors' populations are. A null is never read as 0, for products neither: a log
    that leaves conversion null on rows without a click has to fill in the 0 before a product can
    learn from those rows.

    With ``objective="tasks"`` every head carries loss on its own population and products are
    outputs only. With ``"entire_space"`` products carry loss, and a head with a `given` that is a
    factor of a product carries none of its own: it is learned through the product, on every row. A
    product of products is the product of all their factors.

    The head of a multiclass task has one logit for each class, and its prediction one column: heads
    stand side by side in the logits in the order of the tasks, and so do the predictions of all
    tasks (`columns` says where each one is).

    On a log that was thinned the loss, and so the heads, are of the rows that are left; what is
    predicted is corrected to all rows (see `recmtl.tasks.sampling`), and then, where a head has a
    calibrator, calibrated; a product is one of calibrated factors.

    It is a module so that its few index tensors follow the model to a device; it has no parameters
    and no state.

    Reference: Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating
        Post-Click Conversion Rate", SIGIR 2018, section 2.3. doi:10.1145/3209978.3210104
    Departures: any number of factors and products; sample weights; the loss is divided by the
        weight of all rows.

    Example:
        >>> tasks = TaskSet(
        ...     [
        ...         TaskDef(name="ctr", label="click"),
        ...         TaskDef(name="cvr", label="conversion", given="click"),
        ...         TaskDef(name="ctcvr", label="conversion", product_of=("ctr", "cvr")),
        ...     ],
        ...     labels=("click", "conversion"),
        ...     objective="entire_space",
        ... )
        >>> tasks.heads, tasks.trained
        (('ctr', 'cvr'), ('ctr', 'ctcvr'))
        >>> tasks.probs(torch.zeros(1, 2))
        tensor([[0.5000, 0.5000, 0.2500]])
        >>> labels_BK = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> terms = tasks.loss(torch.zeros(2, 2), labels_BK, torch.ones(2))
        >>> {name: round(float(term), 4) for name, term in terms.by_task.items()}
        {'ctr': 0.6931, 'ctcvr': 0.2877}
    """

    _label_T: Tensor
    _given_T: Tensor
    _always_T: Tensor
    _carries_T: Tensor
    _weight_T: Tensor
    _single_S: Tensor
    _factor_PF: Tensor
    _real_PF: Tensor
    _number_S: Tensor
    _mean_S: Tensor
    _std_S: Tensor
    _to_names: Tensor
    _to_columns: Tensor
    _from_names: Tensor

    def __init__(
        self,
        tasks: Sequence[TaskDef],
        *,
        labels: Sequence[str],
        objective: Literal["tasks", "entire_space"],
        normalize: Literal["rows", "observed"] = "rows",
        thinnings: Sequence[Thinning] = (),
        train_thinnings: Sequence[Thinning] = (),
        calibrators: Mapping[str, Calibrator] | None = None,
    ) -> None:
        """Check the tasks and fix their layout.

        Args:
            tasks: the tasks, in the order of all outputs.
            labels: the columns of `labels_BK`.
            objective: which tasks carry loss.
            normalize: what the loss is divided by, see `recmtl.losses.joint_likelihood`.
            thinnings: how rows were drawn, those to learn from and those to be judged on, one
                drawing after another.
            train_thinnings: how rows to learn from were drawn from these once more.
            calibrators: of binary tasks that are no products; they change what is predicted, and
                not the loss.

        Raises:
            SpecError: the tasks contradict each other, or one cannot be corrected for how rows were
                drawn; all problems are listed.
            ValueError: a calibrator is of no head of a binary task.
        """
        super().__init__()
        require_one_of(("tasks", "entire_space"), objective=objective)
        require_one_of(("rows", "observed"), normalize=normalize)
        check_tasks(tasks, labels)
        self.tasks = tuple(tasks)
        self.labels = tuple(labels)
        self.objective = objective
        self.normalize = normalize
        self.names = tuple(t.name for t in self.tasks)
        self.heads = tuple(t.name for t in self.tasks if not t.product_of)
        self.columns = side_by_side(self.tasks)
        self.factors = factors_of(self.tasks)
        self.thinnings = tuple(thinnings)
        self._corrections = corrections(self.tasks, (*thinnings, *train_thinnings))
        carries = carriers(self.tasks, self.factors, objective)
        check_trained(self.tasks, self.factors, carries)
        self.trained = tuple(name for name in self.names if name in carries)
        self._lay_out(carries)
        self._calibration = self._calibration_of(calibrators or {})

    def _calibration_of(self, calibrators: Mapping[str, Calibrator]) -> Calibration | None:
        where = self._heads_at()
        binary = [t.name for t in self.tasks if t.kind == "binary" and t.name in where]
        foreign = sorted(set(calibrators) - set(binary))
        if foreign:
            raise ValueError(f"calibrators: `{foreign[0]}` is no head of a binary task.")
        by_logit = {where[name].start: found for name, found in calibrators.items()}
        return Calibration(by_logit) if by_logit else None

    def _heads_at(self) -> dict[str, slice]:
        """Logits of each head."""
        return side_by_side([task for task in self.tasks if not task.product_of])

    def _lay_out(self, carries: frozenset[str]) -> None:
        """Index tensors in the order of computation (see `TaskLayout`)."""
        found = lay_out(self.tasks, self.factors)
        tasks = [self.tasks[t] for t in found.order]
        self.num_logits = sum(t.outputs for t in self.tasks if not t.product_of)
        self._num_single = len(found.singles)
        self._order = tuple(t.name for t in tasks)
        self._in_order = self._order == self.names
        self._class_logits = found.classes
        self._has_product_loss = any(name in carries for name in self.factors)
        self._has_numbers = any(t.kind == "regression" for t in found.singles)
        self._is_padded = not all(all(real) for real in found.real_PF)
        column = {label: k for k, label in enumerate(self.labels)}

        def keep(name: str, values: object, dtype: torch.dtype) -> None:
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

        keep("_label_T", [column[t.label] for t in tasks], torch.int64)
        keep("_given_T", [column[t.given or t.label] for t in tasks], torch.int64)
        keep("_always_T", [t.given is None for t in tasks], torch.bool)
        keep("_carries_T", [t.name in carries for t in tasks], torch.bool)
        keep("_weight_T", [t.weight for t in tasks], torch.float64)
        keep("_factor_PF", found.factor_PF, torch.int64)
        keep("_real_PF", found.real_PF, torch.bool)
        keep("_single_S", found.single_S, torch.int64)
        keep("_number_S", [t.kind == "regression" for t in found.singles], torch.bool)
        keep("_mean_S", [t.mean for t in found.singles], torch.float64)
        keep("_std_S", [t.std for t in found.singles], torch.float64)
        keep("_to_names", [self._order.index(name) for name in self.names], torch.int64)
        keep("_to_columns", found.to_columns_O, torch.int64)
        keep("_from_names", found.order, torch.int64)

    def observed(self, labels_BK: Tensor, weight_B: Tensor) -> Tensor:
        """Where the outcome of each task is known: boolean `[B, T]`, in the order of `names`."""
        return self._named(self._population(labels_BK, weight_B)[0])

    def targets(self, labels_BK: Tensor) -> Tensor:
        """Label of each task, 0 where it is not observed: `[B, T]`, in the label's own unit."""
        weight_B = torch.ones_like(labels_BK[:, 0])
        return self._named(self._population(labels_BK, weight_B)[1])

    def observed_weight(self, labels_BK: Tensor, weight_B: Tensor) -> Tensor:
        """Weight of each task's observed rows, `[T]`.

        Processes that share a batch add it up for ``normalize="observed"``.
        """
        return (self.observed(labels_BK, weight_B) * weight_B.unsqueeze(-1)).sum(dim=0)

    def loss(
        self,
        logits_BH: Tensor,
        labels_BK: Tensor,
        weight_B: Tensor,
        *,
        total_weight: Tensor | None = None,
        observed_weight_T: Tensor | None = None,
    ) -> LossTerms:
        """The joint negative log-likelihood of what was seen.

        Args:
            logits_BH: those of each head side by side, in the order of `heads`.
            labels_BK: label columns, NaN where null.
            weight_B: sample weights; padded rows have 0.
            total_weight: weight of all rows of the global batch, where processes share it.
            observed_weight_T: `observed_weight` of the global batch, columns in the order of
                `names`; only ``normalize="observed"`` uses it, and only ``"rows"`` uses
                `total_weight`.

        Returns:
            The total and the terms it is the sum of.
        """
        observed_BT, target_BT = self._population(labels_BK, weight_B)
        if observed_weight_T is not None and not self._in_order:
            observed_weight_T = observed_weight_T[self._from_names]
        terms_T = joint_likelihood(
            self._nll(logits_BH, target_BT),
            observed_BT & self._carries_T,
            weight_B,
            task_weight_T=self._weight_T,
            normalize=self.normalize,
            total_weight=total_weight,
            observed_weight_T=observed_weight_T,
        )
        by_order = dict(zip(self._order, terms_T.unbind(), strict=True))
        return LossTerms(terms_T.sum(), {name: by_order[name] for name in self.trained})

    def weight_of_all(self, labels_BK: Tensor, weight_B: Tensor) -> Tensor:
        """Weights `[B]` with which rows to be judged on speak for all rows.

        Each is divided by the share of rows with such labels that was kept.
        """
        if not self.thinnings:
            return weight_B
        return weight_B / row_rates(labels_BK, self.labels, self.thinnings).to(weight_B.dtype)

    def corrected(self, logits_BH: Tensor) -> Tensor:
        """Logits of all rows, of a thinned log's, and calibrated: `[B, H]`, at least float32."""
        z_BH = self._of_all_rows(at_least_float32(logits_BH))
        return z_BH if self._calibration is None else self._calibration(z_BH)

    def _of_all_rows(self, z_BH: Tensor) -> Tensor:
        if not self._corrections:
            return z_BH
        where = self._heads_at()
        found = dict[str, Tensor]()

        def logit_of(name: str) -> Tensor:
            if name in self.factors:
                factors_BF = torch.stack([logit_of(f) for f in self.factors[name]], dim=1)
                return product_log_odds(factors_BF)
            if name not in found:
                z_B = z_BH[:, where[name].start]
                if name in self._corrections:
                    one, zero = (log_rate(r, logit_of) for r in self._corrections[name])
                    z_B = z_B - (one - zero)
                found[name] = z_B
            return found[name]

        columns = [
            logit_of(name).unsqueeze(1) if name in self._corrections else z_BH[:, at]
            for name, at in where.items()
        ]
        return torch.cat(columns, dim=1)

    def probs(self, logits_BH: Tensor) -> Tensor:
        """What each task predicts: `[B, O]`, in the order of `names`, at least float32.

        A binary task's column is its probability, a product's the product of its factors'
        probabilities, a regression's the prediction in its label's unit; a multiclass task has a
        column for the probability of each class. `columns` says where each task's are.
        """
        z_BH = self.corrected(logits_BH)
        z_BS = self._single(z_BH)
        classes = [z_BC.softmax(dim=1) for z_BC in self._of_classes(z_BH)]
        products_BP = self._of_products(product_log_prob, z_BH).exp()
        return self._outputs(z_BS, z_BS.sigmoid(), classes, products_BP)

    def log_probs(self, logits_BH: Tensor) -> Tensor:
        """Like `probs`, with logarithms of probabilities; a regression keeps its prediction."""
        z_BH = self.corrected(logits_BH)
        z_BS = self._single(z_BH)
        classes = [z_BC.log_softmax(dim=1) for z_BC in self._of_classes(z_BH)]
        products_BP = self._of_products(product_log_prob, z_BH)
        return self._outputs(z_BS, logsigmoid(z_BS), classes, products_BP)

    def log_odds(self, logits_BH: Tensor) -> Tensor:
        """Like `probs`, with logits of probabilities; a regression keeps its prediction.

        A multiclass task keeps its logits, whose softmax is its probabilities. Logits keep their
        digits where a probability rounds to 0 or 1, so metrics read them.
        """
        z_BH = self.corrected(logits_BH)
        z_BS = self._single(z_BH)
        products_BP = self._of_products(product_log_odds, z_BH)
        return self._outputs(z_BS, z_BS, self._of_classes(z_BH), products_BP)

    def _population(self, labels_BK: Tensor, weight_B: Tensor) -> tuple[Tensor, Tensor]:
        """Where each task is observed, and its target there (0 elsewhere), heads first."""
        label_BT = labels_BK.index_select(1, self._label_T)
        given_BT = (labels_BK.index_select(1, self._given_T) == 1) | self._always_T
        observed_BT = given_BT & ~label_BT.isnan() & (weight_B > 0).unsqueeze(-1)
        return observed_BT, torch.where(observed_BT, label_BT, 0.0)

    def _nll(self, logits_BH: Tensor, target_BT: Tensor) -> Tensor:
        """Loss of each task on each row, in the order of computation."""
        z_BH = at_least_float32(logits_BH)
        z_BS = self._single(z_BH)
        target_BS, target_BM, target_BP = target_BT.tensor_split(
            [self._num_single, len(self.heads)], dim=1
        )
        nll_BS = binary_nll(z_BS, target_BS)
        if self._has_numbers:
            standard_BS = (target_BS.to(z_BS.dtype) - self._mean_S.to(z_BS.dtype)) / self._std_S.to(
                z_BS.dtype
            )
            nll_BS = torch.where(self._number_S, squared_error(z_BS, standard_BS), nll_BS)
        nll_BM = [
            multiclass_nll(z_BC, target_BM[:, m]).unsqueeze(1)
            for m, z_BC in enumerate(self._of_classes(z_BH))
        ]
        if self._has_product_loss:
            nll_BP = product_nll(z_BH[:, self._factor_PF], target_BP, self._mask_PF())
        else:
            nll_BP = torch.zeros_like(target_BP, dtype=z_BH.dtype)
        return torch.cat([nll_BS, *nll_BM, nll_BP], dim=1)

    def _single(self, z_BH: Tensor) -> Tensor:
        """The logits of heads that have one."""
        return z_BH[:, self._single_S] if self._class_logits else z_BH

    def _of_classes(self, z_BH: Tensor) -> list[Tensor]:
        """The logits of each multiclass task, `[B, C]`."""
        return [z_BH[:, logits] for logits in self._class_logits]

    def _of_products(
        self, function: Callable[[Tensor, Tensor | None], Tensor], z_BH: Tensor
    ) -> Tensor:
        if not self.factors:
            return z_BH[:, :0]
        return function(z_BH[:, self._factor_PF], self._mask_PF())

    def _mask_PF(self) -> Tensor | None:
        """Which factors are real and not padding, None if all products have equally many."""
        return self._real_PF if self._is_padded else None

    def _outputs(
        self, z_BS: Tensor, single_BS: Tensor, classes: Sequence[Tensor], product_BP: Tensor
    ) -> Tensor:
        """The columns of each task, in the order of `names`; regressions in their label's unit."""
        if self._has_numbers:
            number_BS = z_BS * self._std_S.to(z_BS.dtype) + self._mean_S.to(z_BS.dtype)
            single_BS = torch.where(self._number_S, number_BS, single_BS)
        found_BO = torch.cat([single_BS, *classes, product_BP], dim=1)
        return found_BO if self._in_order else found_BO[:, self._to_columns]

    def _named(self, values_BT: Tensor) -> Tensor:
        return values_BT if self._in_order else values_BT[:, self._to_names]
