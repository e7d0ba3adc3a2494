"""Turn the owner's raw KuaiRand files into `train`, `valid`, `test` and `random.parquet`.

    python datasets/kuairand/prepare.py RAW OUT [--train-until DAY] [--valid-until DAY]

RAW holds the files of one version (Pure, 1K or 27K, told by their suffix), plain, gzipped or
zipped. Rows keep the order of the standard logs, which are split by day. The user features, and
the basic video features where they are there, are joined to each row; `history` holds the videos
that the user clicked before. The random-exposure log, where it is there, becomes `random.parquet`.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import NamedTuple

import polars as pl

sys.path.append(str(Path(__file__).parents[1]))
from preparing.delimited import (
    INT,
    INT_OR_NULL,
    LABEL,
    NUMBER_OR_NULL,
    TEXT_OR_NULL,
    Column,
    Problems,
    read_table,
)
from preparing.disk_tables import DiskTable
from preparing.histories import Histories
from preparing.outputs import Outputs, documented, run, scratch, summary
from preparing.raw_files import RawFile, find

from recmtl.errors import DataError, SpecError

TASKS = ("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_profile_enter")
SIGNALS = (*TASKS, "is_forward", "is_hate")
LOG: dict[str, Column] = {
    **dict.fromkeys(("user_id", "video_id", "date", "hourmin", "time_ms"), INT),
    **dict.fromkeys(SIGNALS, LABEL),
    **dict.fromkeys(
        ("play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time", "tab"), INT
    ),
    "is_rand": LABEL,
}
RANGES = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
USERS: dict[str, Column] = {
    "user_id": INT,
    "user_active_degree": TEXT_OR_NULL,
    **dict.fromkeys(("is_lowactive_period", "is_live_streamer", "is_video_author"), INT_OR_NULL),
    **dict.fromkeys(RANGES, INT_OR_NULL),
    **dict.fromkeys((f"{name}_range" for name in RANGES), TEXT_OR_NULL),
    **dict.fromkeys((f"onehot_feat{i}" for i in range(18)), INT_OR_NULL),
}
VIDEOS: dict[str, Column] = {
    "video_id": INT,
    "author_id": INT_OR_NULL,
    "video_type": TEXT_OR_NULL,
    "upload_dt": TEXT_OR_NULL,
    "upload_type": TEXT_OR_NULL,
    "visible_status": INT_OR_NULL,
    "video_duration": NUMBER_OR_NULL,
    "server_width": INT_OR_NULL,
    "server_height": INT_OR_NULL,
    "music_id": INT_OR_NULL,
    "music_type": INT_OR_NULL,
    "tag": TEXT_OR_NULL,
}
PERIODS = ("4_08_to_4_21", "4_22_to_5_08")
# Rows of the standard logs and of the random-exposure log, as the owner counts them.
FULL = {
    "pure": (1_436_609, 1_186_059),
    "1k": (11_713_045, 43_028),
    "27k": (322_278_385, 1_186_059),
}
LAST_CLICKS = 50
PART_BYTES = 256 << 20  # of the logs; a part of the users is sorted in memory


class Days(NamedTuple):
    """The last days of training and of validation, as the log writes days: 20220503."""

    train: int
    valid: int


class Raw(NamedTuple):
    """The owner's files of one version."""

    version: str
    standard: list[RawFile]
    random: RawFile | None
    users: RawFile
    videos: RawFile | None


DEFAULT_DAYS = Days(20220503, 20220505)


def prepare(raw: Path, out: Path, days: Days = DEFAULT_DAYS) -> list[str]:
    """Write `train`, `valid` and `test.parquet`, and `random.parquet` if its log is there.

    Everything is read and checked before a file is written.

    Returns:
        What was written and what was dropped, as lines of text.

    Raises:
        DataError: files are missing, lines do not fit (the first 20 are named), or a part of the
            split has no rows.
    """
    files, problems = find_files(raw), Problems()
    names = ["train", "valid", "test"]
    absent = [] if files.random else ["random"]
    with (
        Outputs(out, [*names, *([] if absent else ["random"])], TASKS, absent) as outputs,
        scratch(out) as folder,
    ):
        users = read_features(files.users, USERS, folder / "users", problems)
        videos = read_features(files.videos, VIDEOS, folder / "videos", problems)
        num_bytes = sum(file.num_bytes for file in files.standard)
        parts = min(64, 1 + num_bytes // PART_BYTES)
        (folder / "clicks").mkdir()
        histories = Histories(folder / "clicks", parts=parts, last=LAST_CLICKS)
        found: dict[int, int] = {}
        for file in files.standard:
            for rows in read_table(file, LOG, problems, header=True):
                check_days(file, rows, problems)
                for day, count in rows["date"].value_counts().iter_rows():
                    found[day] = found.get(day, 0) + count
                clicks = rows.filter(pl.col("is_click") == 1)
                histories.add(*(clicks[c].to_numpy() for c in ("user_id", "time_ms", "video_id")))
        if files.random:
            for rows in read_table(files.random, LOG, problems, header=True):
                check_days(files.random, rows, problems)
        problems.raise_any()
        require_days(files, found, days)
        histories.finish()

        again = Problems()  # the second reading finds the same blank lines
        notes: dict[str, int] = dict(problems.dropped)
        part = (
            pl.when(pl.col("date") <= days.train)
            .then(pl.lit("train"))
            .when(pl.col("date") <= days.valid)
            .then(pl.lit("valid"))
            .otherwise(pl.lit("test"))
        )
        logs = [(file, part) for file in files.standard]
        logs += [(files.random, pl.lit("random"))] if files.random else []
        for file, where in logs:
            for block in read_table(file, LOG, again, header=True):
                rows = joined(block, users, videos, histories, notes)
                for (name,), some in rows.group_by(where.alias("part"), maintain_order=True):
                    outputs.write(str(name), some)
    return [*summary(outputs, notes), *warnings(files.version, outputs)]


def find_files(raw: Path) -> Raw:
    """The files of the one version that lies in a folder."""
    for version in FULL:
        standard: list[RawFile] = []
        for period in PERIODS:
            base = f"log_standard_{period}_{version}"
            names = [f"{base}.csv", f"{base}_part1.csv", f"{base}_part2.csv"]
            standard += [file for name in names if (file := find(raw, name))]
        users = find(raw, f"user_features_{version}.csv")
        if not standard and not users:
            continue
        missing = [] if standard else [f"log_standard_{PERIODS[0]}_{version}.csv"]
        missing += [] if users else [f"user_features_{version}.csv"]
        if not standard or not users:
            raise DataError(f"{raw}: `{missing[0]}` (plain, `.gz` or `.zip`) is missing.")
        random = find(raw, f"log_random_{PERIODS[1]}_{version}.csv")
        videos = find(raw, f"video_features_basic_{version}.csv")
        return Raw(version, standard, random, users, videos)
    raise DataError(
        f"{raw}: there is no `log_standard_{PERIODS[0]}_pure.csv`, nor one that ends in `_1k` or "
        "`_27k`. RAW must be the folder `data` of the owner's archive."
    )


def read_features(
    file: RawFile | None, columns: dict[str, Column], path: Path, problems: Problems
) -> DiskTable | None:
    """A table of features by the first of its columns."""
    if file is None:
        return None
    key = next(iter(columns))
    table = DiskTable(path, key)
    for block in read_table(file, columns, problems, header=True, quoted=True):
        if "tag" in columns:
            tags = pl.col("tag").str.split(",")
            ids = tags.list.eval(pl.element().str.strip_chars().cast(pl.Int64, strict=False))
            table.append(block.drop("line").with_columns(tag=ids.list.drop_nulls()))
        else:
            table.append(block.drop("line"))
    problems.raise_any()
    table.finish()
    problems.drop(f"lines of {file.name} that repeat a {key}", table.repeated)
    problems.drop("of them with other values than the first (which stays)", table.differing)
    return table


def check_days(file: RawFile, rows: pl.DataFrame, problems: Problems) -> None:
    """Days must be days, and times of the day below 2400."""
    days = pl.col("date").cast(pl.String).str.to_date("%Y%m%d", strict=False)
    problems.add_rows(
        file, rows.filter(days.is_null()), "`date` is `{date}`, expected a day such as 20220408."
    )
    late = rows.filter(~pl.col("hourmin").is_between(0, 2359))
    problems.add_rows(file, late, "`hourmin` is `{hourmin}`, expected 0 to 2359.")


def require_days(files: Raw, found: dict[int, int], days: Days) -> None:
    """Each part of the split needs rows."""
    parts = {
        "training": any(day <= days.train for day in found),
        "validation": any(days.train < day <= days.valid for day in found),
        "testing": any(day > days.valid for day in found),
    }
    missing = [part for part, is_there in parts.items() if not is_there]
    if missing:
        raise DataError(
            f"{', '.join(map(str, files.standard))}: no row is left for {' and '.join(missing)}. "
            f"The log has the days {min(found)} to {max(found)}; training ends with {days.train} "
            f"and validation with {days.valid}. Give `--train-until` and `--valid-until`."
        )


def joined(
    block: pl.DataFrame,
    users: DiskTable | None,
    videos: DiskTable | None,
    histories: Histories,
    notes: dict[str, int],
) -> pl.DataFrame:
    """Rows with their features and histories, in their order."""
    history = histories.before(block["user_id"].to_numpy(), block["time_ms"].to_numpy())
    rows = block.drop("line").with_columns(
        (pl.col("hourmin") // 100).alias("hour"), history.alias("history")
    )
    for table, what in ((users, "user"), (videos, "video")):
        if table is not None:
            unknown = int((table.find(rows[table.key]) < 0).sum())
            if unknown:
                key = f"rows without features of their {what} (the features are null)"
                notes[key] = notes.get(key, 0) + unknown
            rows = table.join(rows)
    return rows


def warnings(version: str, outputs: Outputs) -> list[str]:
    """Where the counts are not those of the owner."""
    standard, random = FULL[version]
    rows = sum(outputs.rows.get(name, 0) for name in ("train", "valid", "test"))
    lines = documented(f"rows in the standard logs ({version})", rows, standard, digits=9)
    found = outputs.rows.get("random", 0)
    return [*lines, *documented(f"rows in the random log ({version})", found, random, digits=9)]


def as_day(text: str) -> int:
    """2022-05-03 as 20220503."""
    return int(datetime.date.fromisoformat(text).strftime("%Y%m%d"))


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="KuaiRand: raw files to Parquet.")
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder with the owner's files")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the Parquet files")
    for part, day in zip(("train", "valid"), ("2022-05-03", "2022-05-05"), strict=True):
        parser.add_argument(
            f"--{part}-until",
            type=as_day,
            default=day,
            metavar="DAY",
            help=f"last day of {part}.parquet, such as {day} (the default)",
        )
    options = parser.parse_args(arguments)
    days = Days(options.train_until, options.valid_until)

    def work() -> list[str]:
        if days.train >= days.valid:
            raise SpecError(
                f"`--valid-until` must be a later day than `--train-until`, got {days.valid} and "
                f"{days.train}."
            )
        return prepare(options.raw, options.out, days)

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
