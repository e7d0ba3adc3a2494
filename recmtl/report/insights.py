"""What the figures of a report say, in sentences; nothing is said where there is nothing to say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

from recmtl.analysis import Analysis

__all__ = ["Insight", "insights"]

_CALIBRATED = 0.1
"""PCOC may be off by so much."""
_WIDE = 0.05
"""Half of an AUC's interval that says little."""
_DEAD = 0.999
_COLLAPSED = 1.1
_UNEVEN = 10.0
_UNKNOWN = 0.05
_LEAST_ROWS = 100
_LEAST_BATCHES = 8
_SIGMAS = 1.96
"""Standard errors of an interval of 95 %."""
_NAMED = 3


class Insight(NamedTuple):
    """A sentence and what it is about."""

    topic: str
    sentence: str


def insights(
    summary: Mapping[str, Any],
    analysis: Analysis,
    lines: Sequence[Mapping[str, Any]],
    *,
    monitor: str | None,
    mode: Literal["max", "min"],
    calibrated: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Insight]:
    """Everything there is to say about a run.

    Args:
        summary: see `summarise`; empty where there is none.
        analysis: see `analyse`.
        lines: losses and metrics over the steps of training.
        monitor: the metric that chose the best checkpoint, such as `ctr/auc`.
        mode: whether more or less of it is better.
        calibrated: metrics of the tasks that calibration changes, after it.
    """
    calibration = {**summary.get("tasks", {}), **(calibrated or {})}
    said = {
        "Calibration": _calibration(calibration),
        "Certainty": _certainty(summary.get("tasks", {})),
        "Features": _features(analysis.importance, summary.get("tasks", {})),
        "Experts": _experts(summary.get("gates", [])),
        "Conflict": _conflict(analysis.conflict),
        "Training": _training(lines, monitor, mode),
        "Unknown ids": _unknown(summary.get("counts", {})),
    }
    return [Insight(topic, text) for topic, sentences in said.items() for text in sentences]


def _calibration(tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """PCOC of binary tasks, beside how far chance alone moves it."""
    good = []
    for name, found in tasks.items():
        pcoc = found.get("pcoc")
        if pcoc is None:
            continue
        rate = found["positives"] / found["n"]
        chance = _SIGMAS * math.sqrt((1 - rate) / max(found["positives"], 1))
        off = abs(pcoc - 1)
        if off > _CALIBRATED and off > chance:
            yield (
                f"`{name}` predicts too {'much' if pcoc > 1 else 'little'}: its mean prediction is "
                f"{pcoc:.3f} times the observed rate (PCOC)."
            )
        elif chance > _CALIBRATED:
            yield (
                f"Whether `{name}` is calibrated is open: its PCOC is {pcoc:.3f}, but "
                f"{_count(found['positives'], 'positive')} leave it uncertain by "
                f"{100 * chance:.0f} %."
            )
        else:
            good.append(f"`{name}` (PCOC {pcoc:.3f})")
    if good:
        yield f"Calibrated within {100 * _CALIBRATED:.0f} %: {', '.join(good)}."


def _certainty(tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """AUCs that too few rows stand behind."""
    for name, found in tasks.items():
        if "auc" not in found:
            continue
        positives, negatives = _classes(found)
        counts = f"{_count(positives, 'positive')} and {_count(negatives, 'negative')}"
        if found["auc"] is None:
            yield f"`{name}` has no AUC: its validation rows are {counts}."
            continue
        half = _uncertainty(found)
        if half > _WIDE:
            low = found["auc"] - half
            chance = ", which does not tell it from chance" if low <= 0.5 <= low + 2 * half else ""
            yield (
                f"The AUC of `{name}`, {found['auc']:.3f}, is uncertain by {half:.3f}{chance}: "
                f"its validation rows are {counts}."
            )


def _is_told_from_chance(found: Mapping[str, Any]) -> bool:
    """Whether an AUC, if there is one, is above .5 by more than its error."""
    if found.get("auc") is None:
        return True
    return bool(found["auc"] - _uncertainty(found) > 0.5)


def _uncertainty(found: Mapping[str, Any]) -> float:
    """Half the interval of an AUC."""
    return _SIGMAS * auc_error(found["auc"], *_classes(found))


def _classes(found: Mapping[str, Any]) -> tuple[int, int]:
    """Positives and negatives."""
    return found["positives"], found["n"] - found["positives"]


def auc_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC.

    Reference: Hanley and McNeil, "The Meaning and Use of the Area under a Receiver Operating
        Characteristic (ROC) Curve", Radiology 1982, equation (1).

    Example:
        >>> round(auc_error(0.75, 100, 100), 4)
        0.0344
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


def _features(
    importance: Mapping[str, Any] | None, tasks: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """What each task rests on, where shuffles agree that it does and it knows anything at all."""
    for name, found in (importance or {"tasks": {}})["tasks"].items():
        if not found["features"] or not _is_told_from_chance(tasks.get(name, {})):
            continue
        metric = str(found["metric"]).upper()
        clear = {
            feature: loss["mean"]
            for feature, loss in found["features"].items()
            if loss["mean"] > 0 and loss["mean"] > 2 * (loss["std"] or 0.0)
        }
        best = sorted(clear, key=lambda feature: -clear[feature])[:_NAMED]
        if best:
            named = ", ".join(f"`{feature}` ({clear[feature]:.4f})" for feature in best)
            change = "lost" if metric == "AUC" else "added"
            yield f"`{name}` rests most on {named}: {metric} {change} when it is shuffled."
        else:
            yield (
                f"No feature of `{name}` costs more {metric} when it is shuffled than twice the "
                f"spread of {importance['shuffles'] if importance else 0} shuffles."
            )


def _experts(levels: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Experts that say nothing or are not read, and gates that do not choose."""
    for level in levels:
        where = f" of level {level['level']}" if len(levels) > 1 else ""
        if level.get("zero_share"):
            shares = zip(level["experts"], level["zero_share"], strict=True)
            for expert, share in shares:
                if share >= _DEAD:
                    zeros = f"{100 * share:.1f} % of its outputs are 0"
                    yield f"Expert `{expert}`{where} is dead: {zeros}."
        for expert in level.get("unused", ()):
            most = _largest_share(level, expert)
            yield f"No gate uses expert `{expert}`{where}: its largest share is {most:.4f}."
        for gate, effective in level.get("effective", {}).items():
            reads = level["reads"][gate]
            if reads > 1 and effective["of_means"] < _COLLAPSED:
                yield (
                    f"The gate `{gate}`{where} has collapsed: of {reads} experts it uses "
                    f"{effective['of_means']:.2f}."
                )
        for gate in level.get("constant", ()):
            yield (
                f"The gate `{gate}`{where} does not choose: no weight varies between rows by more "
                f"than {level['deviation'][gate]:.4f} (standard deviation)."
            )
        ratio = level.get("spread_ratio")
        if ratio is not None and ratio > _UNEVEN:
            yield (
                f"The experts{where} are uneven: the outputs of one spread {ratio:.0f} times as "
                "far as those of another."
            )


def _largest_share(level: Mapping[str, Any], expert: str) -> float:
    place = level["experts"].index(expert)
    shares = [weights[place] for weights in level["gates"].values()]
    shares += [weights[expert] for weights in level["own"].values() if expert in weights]
    return max(shares, default=0.0)


def _conflict(conflict: Mapping[str, Any] | None) -> Iterator[str]:
    """Tasks whose gradients point apart, by more than chance."""
    for number, pair in enumerate((conflict or {"pairs": []})["pairs"]):
        first, second = pair["tasks"]
        if pair["rows"] < _LEAST_ROWS:
            continue
        if _is_below_zero(pair):
            yield (
                f"`{first}` and `{second}` pull the tower's input apart: on {pair['rows']:,} rows "
                f"where both have a gradient the mean cosine is {pair['cosine']:.2f}, and "
                f"{100 * pair['opposed']:.0f} % of them are opposed."
            )
            fought = {
                feature: angles[number]["cosine"]
                for feature, angles in (conflict or {})["features"].items()
                if angles[number]["batches"] >= _LEAST_BATCHES and _is_below_zero(angles[number])
            }
            if fought:
                most = sorted(fought, key=lambda feature: fought[feature])[:_NAMED]
                named = ", ".join(f"`{feature}` ({fought[feature]:.2f})" for feature in most)
                yield f"Most fought over: {named}, the mean cosine over batches."
        ratio = pair["norm_ratio"]
        if ratio > _UNEVEN or ratio < 1 / _UNEVEN:
            strong, weak = (first, second) if ratio > 1 else (second, first)
            yield (
                f"The gradient of `{strong}` is {max(ratio, 1 / ratio):.0f} times as long as that "
                f"of `{weak}` on {pair['rows']:,} rows."
            )


def _is_below_zero(angles: Mapping[str, Any]) -> bool:
    error = angles["cosine_error"]
    return error is not None and angles["cosine"] + _SIGMAS * error < 0


def _training(
    lines: Sequence[Mapping[str, Any]], monitor: str | None, mode: Literal["max", "min"]
) -> Iterator[str]:
    """Whether the monitored metric fell off while the training loss went on falling."""
    if monitor is None:
        return
    by_epoch = {
        line["epoch"]: line[f"valid/{monitor}"]
        for line in lines
        if line.get(f"valid/{monitor}") is not None and "epoch" in line
    }
    epochs = sorted(by_epoch)
    if len(epochs) < 2:
        return
    values = [by_epoch[epoch] for epoch in epochs]
    best = values.index(max(values) if mode == "max" else min(values))
    if best == len(epochs) - 1:
        return
    task = monitor.rpartition("/")[0]
    losses = [_training_loss(lines, epoch, task) for epoch in (epochs[best], epochs[-1])]
    fell = ""
    if losses[0] is not None and losses[1] is not None and losses[1] < losses[0]:
        fell = (
            f", while its training loss fell from {losses[0]:.4f} to {losses[1]:.4f}: over-fitting"
        )
    which = "The first of" if best == 0 else f"Epoch {best + 1} of"
    ends = " epochs" if best == 0 else ""
    cure = " A stronger `train.embedding.prior` keeps rare ids from being learnt by heart."
    yield (
        f"{which} {len(epochs)}{ends} was the best: after it validation `{monitor}` went "
        f"from {values[best]:.4f} to {values[-1]:.4f}{fell}.{cure if fell else ''}"
    )


def _training_loss(lines: Sequence[Mapping[str, Any]], epoch: int, task: str) -> float | None:
    for key in (f"train/{task}/loss", "train/loss"):
        found = [line[key] for line in lines if line.get("epoch") == epoch and key in line]
        found = [loss for loss in found if loss is not None]
        if found:
            return fmean(found)
    return None


def _unknown(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Features of which the vocabulary lacks many of the validation rows' ids."""
    for feature, found in counts.items():
        share = found["oov"] / found["values"] if found["values"] else 0.0
        if share >= _UNKNOWN:
            yield (
                f"{100 * share:.1f} % of {found['values']:,} values of `{feature}` in validation "
                "rows are ids that the vocabulary does not have."
            )


def _count(number: int, what: str) -> str:
    """A count in words.

    Example:
        >>> _count(0, "positive"), _count(1, "positive"), _count(1200, "positive")
        ('no positive', '1 positive', '1,200 positives')
    """
    if number == 0:
        return f"no {what}"
    return f"{number:,} {what}{'' if number == 1 else 's'}"
