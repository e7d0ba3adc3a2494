"""Requests that wait at the same time are scored together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import polars as pl

__all__ = ["Batches", "Scorer"]

Scorer = Callable[[pl.DataFrame], pl.DataFrame]
"""Rows in, as many rows of scores out, in their order, as `BatchScorer(run, keep=())` does."""


class Batches:
    """A queue before a scorer, which is called from one thread at a time.

    Args:
        scorer: what scores.
        most_rows: no request is added to a batch that has so many rows already.
    """

    def __init__(self, scorer: Scorer, most_rows: int = 4096) -> None:
        """Start with an empty queue."""
        self._scorer = scorer
        self._most_rows = most_rows
        self._waiting: asyncio.Queue[tuple[pl.DataFrame, asyncio.Future[pl.DataFrame]]]
        self._waiting = asyncio.Queue()

    async def score(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Scores of a request's rows; raises what the scorer says of them."""
        answer: asyncio.Future[pl.DataFrame] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((frame, answer))
        return await answer

    async def run(self) -> None:
        """Score what waits, for ever."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and sum(f.height for f, _ in batch) < self._most_rows:
                batch.append(self._waiting.get_nowait())
            found = await asyncio.to_thread(self._answers, [frame for frame, _ in batch])
            for (_, answer), scores in zip(batch, found, strict=True):
                if answer.done():  # nobody waits for it any more
                    continue
                if isinstance(scores, Exception):
                    answer.set_exception(scores)
                else:
                    answer.set_result(scores)

    def _answers(self, frames: Sequence[pl.DataFrame]) -> list[pl.DataFrame | Exception]:
        """Scores of each request; where they fail together, each one by itself."""
        try:
            scores = self._scorer(pl.concat(frames))
        except Exception as error:  # whoever waits for the answer raises it
            if len(frames) == 1:
                return [error]
            return [answer for frame in frames for answer in self._answers([frame])]
        parts: list[pl.DataFrame | Exception] = []
        for frame in frames:
            parts.append(scores[: frame.height])
            scores = scores[frame.height :]
        return parts
