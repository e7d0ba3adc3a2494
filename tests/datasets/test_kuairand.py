from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from recmtl import load_spec
from recmtl.errors import DataError
from tests.datasets.raw import REAL_DATA, ROOT, load, write_lines

KUAIRAND = load("kuairand")
TASKS = ("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_profile_enter")
LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab"
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,"
    "follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,"
    "friend_user_num_range,register_days,register_days_range,"
    + ",".join(f"onehot_feat{i}" for i in range(18))
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"
    "server_width,server_height,music_id,music_type,tag"
)
DAYS = KUAIRAND.Days(20220409, 20220422)


def log_lines(days: list[int], rows: int, seed: int, *, random: bool = False) -> Iterator[str]:
    """Rows of six users on some days; several rows of a user share a time."""
    draw = np.random.default_rng(seed)
    yield LOG
    for _ in range(rows):
        user, video, day = draw.integers(6), draw.integers(40), draw.choice(days)
        hour, ticks = draw.integers(24), draw.integers(5)
        labels = (draw.random(8) < [0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.4, 0.3]).astype(int)
        click, like, follow, comment, forward, hate, long_view, enter = labels
        yield (
            f"{user},{video},{day},{hour * 100},{day * 100_000 + hour * 10 + ticks},{click},{like},"
            f"{follow},{comment},{forward},{hate},{long_view},{draw.integers(9000)},"
            f"{draw.integers(1, 60) * 1000},0,{draw.integers(99)},{enter},{int(random)},"
            f"{draw.integers(3)}"
        )


def user_lines(users: int = 5) -> Iterator[str]:
    """User features; the last user has none."""
    yield USERS
    for user in range(users):
        codes = ",".join("" if user == 1 else f"{(user * i) % 3}.0" for i in range(18))
        yield (
            f'{user},full_active,0,-124,1,12,"(10,50]",90,"[10,100)",11,"[5,30)",{user * 100},'
            f"366-730,{codes}"
        )


def video_lines() -> Iterator[str]:
    """Basic video features, with quoted tags, empty fields and a video that is given twice."""
    yield VIDEOS
    for video in [*range(38), 3]:
        tag = ("", "7", '"12,65"')[video % 3]
        music = "" if video % 5 == 0 else "4.0"
        yield (
            f"{video},{video // 4},NORMAL,2022-03-0{video % 9 + 1},ShortImport,1,{video}00.0,"
            f"720,1280,{video * 10**15},{music},{tag}"
        )


def write_raw(folder: Path, version: str = "pure", how: str = "plain") -> Path:
    """The owner's files of one version: three days, of which one goes over the border of files."""
    first, second = (f"log_standard_{days}_{version}" for days in ("4_08_to_4_21", "4_22_to_5_08"))
    early, late = [20220408, 20220409, 20220421], [20220422, 20220423]
    if version == "27k":
        write_lines(folder / f"{first}_part1.csv", log_lines(early, 120, seed=1), how)
        write_lines(folder / f"{first}_part2.csv", log_lines(early, 80, seed=2), how)
    else:
        write_lines(folder / f"{first}.csv", log_lines(early, 200, seed=1), how)
    write_lines(folder / f"{second}.csv", log_lines(late, 150, seed=3), how)
    random = log_lines(late, 50, seed=4, random=True)
    write_lines(folder / f"log_random_4_22_to_5_08_{version}.csv", random, how)
    write_lines(folder / f"user_features_{version}.csv", user_lines(), how)
    write_lines(folder / f"video_features_basic_{version}.csv", video_lines(), how)
    write_lines(folder / f"video_features_statistic_{version}.csv", ["video_id,like_cnt", "1,2"])
    return folder


def expected(logs: list[list[str]], random: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The same by loops over `csv` alone."""
    users = {row["user_id"]: row for row in csv.DictReader(user_lines())}
    videos: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(video_lines()):
        videos.setdefault(row["video_id"], row)
    rows = list(itertools.chain.from_iterable(csv.DictReader(lines) for lines in logs))
    parts: dict[str, list[dict[str, Any]]] = {k: [] for k in ("train", "valid", "test", "random")}
    for row in [*rows, *(dict(row, part="random") for row in csv.DictReader(random))]:
        clicks = [
            (int(r["time_ms"]), int(r["video_id"]))
            for r in rows
            if r["user_id"] == row["user_id"]
            and r["is_click"] == "1"
            and int(r["time_ms"]) < int(row["time_ms"])
        ]
        clicks.sort(key=lambda click: click[0])
        day = int(row["date"])
        part = "train" if day <= DAYS.train else "valid" if day <= DAYS.valid else "test"
        found: dict[str, Any] = {k: int(v) for k, v in row.items() if k != "part"}
        found["hour"] = int(row["hourmin"]) // 100
        found["history"] = [video for _, video in clicks][-50:]
        for columns, table, key in ((USERS, users, "user_id"), (VIDEOS, videos, "video_id")):
            features = table.get(row[key], {})
            for name in columns.split(",")[1:]:
                found[name] = value_of(name, features.get(name))
        parts[row.get("part", part)].append(found)
    return parts


def value_of(name: str, text: str | None) -> Any:
    if name == "tag" and text is not None:
        return [int(tag) for tag in text.split(",")] if text else None
    if not text:
        return None
    strings = ("user_active_degree", "video_type", "upload_dt", "upload_type")
    if name in strings or name.endswith("_range"):
        return text
    return float(text) if name == "video_duration" else int(float(text))


@pytest.mark.parametrize(("version", "how"), [("pure", "plain"), ("1k", "zip"), ("27k", "gz")])
def test_rows_are_those_of_a_plain_reading(tmp_path: Path, version: str, how: str) -> None:
    words = KUAIRAND.prepare(write_raw(tmp_path / "raw", version, how), tmp_path / "out", DAYS)
    late = list(log_lines([20220422, 20220423], 150, seed=3))
    early = [20220408, 20220409, 20220421]
    sizes = [(120, 1), (80, 2)] if version == "27k" else [(200, 1)]
    logs = [list(log_lines(early, rows, seed)) for rows, seed in sizes]
    random = list(log_lines([20220422, 20220423], 50, seed=4, random=True))
    for part, rows in expected([*logs, late], random).items():
        found = pl.read_parquet(tmp_path / "out" / f"{part}.parquet").to_dicts()
        assert [set(row) for row in found] == [set(row) for row in rows], part
        assert found == [{name: row[name] for name in found[0]} for row in rows], part
        assert max(len(row["history"]) for row in rows) > (10 if part == "train" else 25)
        clicks = sum(row["is_click"] for row in rows)
        assert f"{part}.parquet: {len(rows)} rows (is_click {clicks}," in "\n".join(words)
    text = "\n".join(words)
    assert "rows without features of their user (the features are null)" in text
    assert "rows without features of their video (the features are null)" in text
    assert f"1 lines of video_features_basic_{version}" in text
    assert "like_cnt" not in pl.read_parquet_schema(tmp_path / "out" / "train.parquet")


def test_a_history_ends_before_the_row_and_goes_over_borders(tmp_path: Path) -> None:
    zeros = ",".join("0" * 5)
    rows = [  # video, day, time, click
        (1, 20220408, 100, 1),
        (2, 20220408, 100, 1),  # the same moment: neither sees the other
        (3, 20220409, 101, 0),  # no click, so in no history
        (4, 20220410, 102, 1),  # validation sees training
        (5, 20220411, 103, 1),  # test sees both, and not itself
        (6, 20220411, 99, 1),  # late in the file, early in time
    ]
    lines = [
        f"7,{video},{day},1200,{time},{click},{zeros},{click},0,9,0,0,0,0,1"
        for video, day, time, click in rows
    ]
    lines.append("8,9,20220408,1200,200,1,0,0,0,0,0,1,0,9,0,0,0,0,1")  # another user
    raw = tmp_path / "raw"
    write_lines(raw / "log_standard_4_08_to_4_21_1k.csv", [LOG, *lines])
    write_lines(raw / "user_features_1k.csv", user_lines())
    KUAIRAND.prepare(raw, tmp_path / "out", KUAIRAND.Days(20220409, 20220410))
    found = {
        part: dict(pl.read_parquet(tmp_path / "out" / f"{part}.parquet", columns=c).iter_rows())
        for c in [["video_id", "history"]]
        for part in ("train", "valid", "test")
    }
    assert found["train"] == {1: [6], 2: [6], 3: [6, 1, 2], 9: []}
    assert found["valid"] == {4: [6, 1, 2]}
    assert found["test"] == {5: [6, 1, 2, 4], 6: []}
    assert not (tmp_path / "out" / "random.parquet").exists()
    assert "author_id" not in pl.read_parquet_schema(tmp_path / "out" / "train.parquet")


def test_the_last_fifty_clicks_stay(tmp_path: Path) -> None:
    line = "7,{v},{day},1200,{v},1,0,0,0,0,0,1,0,9,0,0,0,0,1"
    days = [20220408] * 60 + [20220409, 20220410]
    lines = [line.format(v=v, day=day) for v, day in enumerate(days)]
    write_lines(tmp_path / "log_standard_4_08_to_4_21_1k.csv", [LOG, *lines])
    write_lines(tmp_path / "user_features_1k.csv", user_lines())
    KUAIRAND.prepare(tmp_path, tmp_path / "out", KUAIRAND.Days(20220408, 20220409))
    (history,) = pl.read_parquet(tmp_path / "out" / "test.parquet")["history"].to_list()
    assert history == list(range(11, 61))


def test_lines_that_do_not_fit_are_all_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_raw(tmp_path / "raw")
    good = next(itertools.islice(log_lines([20220408], 1, seed=0), 1, None)).split(",")

    def line(**changes: str) -> str:
        names = LOG.split(",")
        return ",".join(changes.get(name, value) for name, value in zip(names, good, strict=True))

    bad = [
        line(is_like="2"),
        line(date="20221301"),
        line(hourmin="2400"),
        line(user_id="me"),
        "1,2",
    ]
    log = raw / "log_standard_4_08_to_4_21_pure.csv"
    write_lines(log, [LOG, line(), "", *bad, line(time_ms="")])
    users = [*user_lines(), '5,full_active,0,0,1,12,"(10,50]']
    write_lines(raw / "user_features_pure.csv", users)
    out = tmp_path / "out"
    assert KUAIRAND.main([str(raw), str(out)]) == 3
    assert (
        f"user_features_pure.csv:{len(users)}: 0 columns, expected 31." in capsys.readouterr().err
    )
    write_lines(raw / "user_features_pure.csv", user_lines())
    arguments = ["--train-until", "2022-04-09", "--valid-until", "2022-04-22"]
    assert KUAIRAND.main([str(raw), str(out), *arguments]) == 3
    message = capsys.readouterr().err
    assert "pure.csv:4: `is_like` is `2`, expected 0 or 1." in message
    assert "pure.csv:5: `date` is `20221301`, expected a day such as 20220408." in message
    assert "pure.csv:6: `hourmin` is `2400`, expected 0 to 2359." in message
    assert "pure.csv:7: `user_id` is `me`, expected an integer." in message
    assert "pure.csv:8: 2 columns, expected 19." in message
    assert "pure.csv:9: `time_ms` is ``, expected an integer." in message
    assert not out.exists()


def test_a_split_without_rows_or_files_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = write_raw(tmp_path / "raw"), str(tmp_path / "out")
    assert KUAIRAND.main([str(raw), out]) == 3  # the owner's full log goes to 8 May
    message = capsys.readouterr().err
    assert "no row is left for validation and testing" in message
    assert "days 20220408 to 20220423" in message
    days = ["--train-until", "2022-04-22", "--valid-until", "2022-04-22"]
    assert KUAIRAND.main([str(raw), out, *days]) == 2
    assert "`--valid-until` must be a later day" in capsys.readouterr().err
    (raw / "user_features_pure.csv").unlink()
    with pytest.raises(DataError, match=r"`user_features_pure\.csv` .* is missing"):
        KUAIRAND.prepare(raw, tmp_path / "out", DAYS)
    with pytest.raises(DataError, match=r"there is no `log_standard_4_08_to_4_21_pure\.csv`"):
        KUAIRAND.prepare(tmp_path, tmp_path / "out", DAYS)
    assert not (tmp_path / "out").exists()


def test_a_random_log_of_before_does_not_stay(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw")
    KUAIRAND.prepare(raw, tmp_path / "out", DAYS)
    before = pl.read_parquet(tmp_path / "out" / "train.parquet")
    (raw / "log_random_4_22_to_5_08_pure.csv").unlink()
    with pytest.raises(DataError, match=r"random\.parquet: is left from another preparation"):
        KUAIRAND.prepare(raw, tmp_path / "out", DAYS)
    (tmp_path / "out" / "random.parquet").unlink()
    KUAIRAND.prepare(raw, tmp_path / "out", DAYS)
    assert pl.read_parquet(tmp_path / "out" / "train.parquet").equals(before)


def video_features() -> list[dict[str, Any]]:
    """The lines for the features of videos, from the data set's page."""
    page = (ROOT / "datasets" / "kuairand" / "README.md").read_text(encoding="utf-8")
    return list(yaml.safe_load(page.split("```yaml\n")[1].split("```")[0]))


@pytest.mark.slow
def test_the_spec_trains_with_and_without_videos(
    tmp_path: Path, trained: Callable[..., dict[str, Any]]
) -> None:
    KUAIRAND.prepare(write_raw(tmp_path / "raw"), tmp_path / "out", DAYS)
    text = yaml.safe_load(KUAIRAND.spec.read_text(encoding="utf-8"))
    text["features"] += video_features()
    spec = tmp_path / "with_videos.yaml"
    spec.write_text(yaml.safe_dump(text), encoding="utf-8")
    result = trained(spec, tmp_path / "out", "tower={kind: mmoe, expert_widths: [8]}")
    assert list(result["tasks"]) == list(TASKS)
    test = pl.read_parquet(tmp_path / "out" / "test.parquet")
    for task, metrics in result["tasks"].items():
        assert (metrics["n"], metrics["positives"]) == (test.height, test[task].sum())
    assert set(result["segments"]["user_active_degree"]) >= {"full_active"}


def test_the_spec_uses_nothing_that_is_known_later() -> None:
    config = load_spec(KUAIRAND.spec)
    names = {feature.name for feature in config.features} | {f["name"] for f in video_features()}
    later = {"play_time_ms", "profile_stay_time", "comment_stay_time", "is_forward", "is_hate"}
    columns = {*LOG.split(","), *USERS.split(","), *VIDEOS.split(","), "hour", "history"}
    assert names <= columns
    assert not names & {*later, *TASKS, "date", "time_ms", "hourmin", "is_rand"}
    assert tuple(task.name for task in config.tasks) == TASKS
    assert [task.label for task in config.tasks] == list(TASKS)


@pytest.mark.skipif(REAL_DATA is None, reason="RECMTL_REAL_DATA does not name a folder")
def test_the_real_files(tmp_path: Path) -> None:
    raw = Path(str(REAL_DATA)) / "kuairand"
    words = KUAIRAND.prepare(raw, tmp_path, KUAIRAND.Days(20220416, 20220417))
    assert words[-1] == "dropped nothing"
    (log,) = raw.glob("log_standard_*.csv")
    with log.open(encoding="utf-8", newline="") as file:
        plain = list(csv.DictReader(file))
    clicks: dict[str, list[tuple[int, int]]] = {}
    parts: dict[str, list[tuple[int, list[int]]]] = {"train": [], "valid": [], "test": []}
    for row in plain:  # the cut is sorted by time
        time, earlier = int(row["time_ms"]), clicks.setdefault(row["user_id"], [])
        day = int(row["date"])
        part = "train" if day <= 20220416 else "valid" if day <= 20220417 else "test"
        parts[part].append((time, [video for t, video in earlier if t < time][-50:]))
        if row["is_click"] == "1":
            earlier.append((time, int(row["video_id"])))
    for part, rows in parts.items():
        found = pl.read_parquet(tmp_path / f"{part}.parquet", columns=["time_ms", "history"])
        assert list(found.iter_rows()) == rows, part
