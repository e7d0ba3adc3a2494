"""A backtest's numbers: each contestant's metric by task and day, and over all days."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recmtl.config import RunConfig
from recmtl.studies.backtest_runs import FROZEN
from recmtl.studies.days import Day
from recmtl.studies.intervals import mean_of
from recmtl.studies.standings import HEADLINE, HIGHER_IS_BETTER

__all__ = ["by_day", "over_days", "undefined"]


def by_day(
    judged: Mapping[int, Mapping[str, Mapping[str, Any]]], days: Sequence[Day]
) -> list[dict[str, Any]]:
    """The scored days in order, each with its rows, and all metrics by task and contestant.

    Args:
        judged: number of the day -> contestant -> what `recmtl eval` says.
        days: all days.
    """
    found = []
    for number, by_contestant in judged.items():
        tasks: dict[str, dict[str, Any]] = {}
        for who, said in by_contestant.items():
            for task, metrics in said["tasks"].items():
                tasks.setdefault(task, {})[who] = metrics
        first = by_contestant[FROZEN]
        found.append(
            {
                "day": days[number].name,
                "rows": first["rows"],
                "models": {who: said["model"] for who, said in by_contestant.items()},
                "tasks": tasks,
                "contradictions": first["contradictions"],
            }
        )
    return found


def over_days(
    scored: Sequence[Mapping[str, Any]], config: RunConfig, contestants: Sequence[str]
) -> dict[str, dict[str, Any]]:
    r"""By task: the metric, its mean over days, and how much better each one is than `frozen`.

    The interval is Student's t over the days' differences, as if each day were drawn by itself.
    Days that leave a metric undefined are in no mean.

    Args:
        scored: what `by_day` found.
        config: the spec.
        contestants: `frozen` and others.
    """
    found = {}
    for task in config.tasks:
        metric = HEADLINE[task.kind]
        sign = 1 if HIGHER_IS_BETTER[metric] else -1
        value_CD = {
            who: [day["tasks"][task.name][who][metric] for day in scored] for who in contestants
        }
        there = [
            d
            for d in range(len(scored))
            if all(values[d] is not None for values in value_CD.values())
        ]
        about: dict[str, Any] = {
            "metric": metric,
            "higher_is_better": sign > 0,
            "days": len(there),
            "means": {},
            "vs_frozen": {},
        }
        for who, values in value_CD.items():
            own = [values[d] for d in there]
            about["means"][who] = mean_of(own).value if own else None
            if who == FROZEN or not own:
                continue
            differences = [values[d] - value_CD[FROZEN][d] for d in there]
            mean = mean_of(differences)
            about["vs_frozen"][who] = {
                "value": mean.value,
                "half_width": mean.half_width,
                "better_days": sum(sign * difference > 0 for difference in differences),
            }
        found[task.name] = about
    return found


def undefined(
    scored: Sequence[Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Days whose rows leave a task's metric undefined, in words."""
    for task, about in tasks.items():
        for day in scored:
            metrics = day["tasks"][task][FROZEN]
            if metrics[about["metric"]] is None:
                rows, positives = metrics["n"], metrics.get("positives")
                what = f"{rows:,} rows" + ("" if positives is None else f", {positives:,} positive")
                yield (
                    f"{day['day']}: the {about['metric'].upper()} of `{task}` is not defined on its"
                    f" {what}."
                )
