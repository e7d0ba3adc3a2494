"""Score a folder of Parquet files in a job of your own, frame by frame. Needs `recmtl[score]`.

python examples/04_score_a_folder.py RUN LOGS OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from recmtl import BatchScorer


def main(run: Path, logs: Path, out: Path) -> None:
    """One output file for each input file, with the ids and the scores."""
    scorer = BatchScorer(run, keep=["user_id", "item_id"])
    out.mkdir(parents=True, exist_ok=True)
    for log in sorted(logs.glob("*.parquet")):
        scores = scorer(pl.read_parquet(log))
        scores.write_parquet(out / log.name)
        sys.stdout.write(
            f"{log.name}: {scores.height:,} rows, mean CTR {scores['probs_ctr'].mean():.4f}\n"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
