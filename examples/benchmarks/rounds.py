"""Fair timing: contestants take turns, medians over rounds, noise stated, results as JSON.

Each round runs every contestant once, in an order that turns, so that what else the machine does
falls on all of them alike. Wall time says how fast; CPU time of the process is what a shared
machine can still compare.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Timing", "alternate", "markdown", "paired_ratio", "write_result"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one contestant took, round by round."""

    wall_us: list[float]
    """Wall microseconds a row, of each round."""
    cpu_us: list[float]
    """CPU microseconds a row, of all threads of the process."""

    @property
    def wall(self) -> float:
        """Median wall microseconds a row."""
        return statistics.median(self.wall_us)

    @property
    def cpu(self) -> float:
        """Median CPU microseconds a row."""
        return statistics.median(self.cpu_us)

    @property
    def rows_per_s(self) -> float:
        """Rows a second of wall time."""
        return 1e6 / self.wall

    @property
    def noise(self) -> float:
        """Half the distance between the quartiles of wall time, as a share of the median."""
        return _spread(self.wall_us) / self.wall

    @property
    def cpu_noise(self) -> float:
        """The same of CPU time."""
        return _spread(self.cpu_us) / self.cpu


def alternate(
    contestants: Mapping[str, Callable[[], int]],
    *,
    rounds: int,
    warm_up: int = 1,
    seconds: float | None = None,
) -> dict[str, Timing]:
    """Run contestants in turns.

    Args:
        contestants: name -> a piece of work that returns how many rows it did.
        rounds: how often each one runs.
        warm_up: rounds before those, which do not count.
        seconds: no new round begins after this time, if there were three.
    """
    names = list(contestants)
    found: dict[str, Timing] = {name: Timing(wall_us=[], cpu_us=[]) for name in names}
    begun = time.perf_counter()
    for turn in range(-warm_up, rounds):
        if turn >= 3 and seconds is not None and time.perf_counter() - begun > seconds:
            break
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            wall, cpu = time.perf_counter(), time.process_time()
            rows = contestants[name]()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= 0:
                found[name].wall_us.append(1e6 * wall / rows)
                found[name].cpu_us.append(1e6 * cpu / rows)
    return found


def paired_ratio(slow: Timing, fast: Timing, *, cpu: bool = False) -> float:
    """How many times longer `slow` takes: the median over rounds of each round's ratio."""
    columns = (slow.cpu_us, fast.cpu_us) if cpu else (slow.wall_us, fast.wall_us)
    return statistics.median(a / b for a, b in zip(*columns, strict=True))


def write_result(path: Path, *, about: str, timings: Mapping[str, Timing], **more: object) -> None:
    """Write raw rounds and what was made of them as JSON, so that a page can be made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "about": about,
        "timings": {
            name: {
                **asdict(t),
                "wall": t.wall,
                "cpu": t.cpu,
                "noise": t.noise,
                "cpu_noise": t.cpu_noise,
            }
            for name, t in timings.items()
        },
        **more,
    }
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers are right-aligned, floats have three digits."""
    cells = [[_cell(value) for value in row] for row in rows]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), rule, *cells]) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _spread(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2
