"""The page: whole, harmless, and with the numbers of the run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from recmtl.checkpoint import read_index
from recmtl.errors import CheckpointError, DataError
from recmtl.report import make_report, write_report
from recmtl.run import Run
from tests.report.conftest import HOSTILE, SEGMENTS
from tests.runs import copied, interrupt, settle

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text, and whether tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def page_of(run: Path) -> Page:
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.mark.parametrize("name", ["run", "odd_run", "plain_run"])
def test_the_page_is_self_contained(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = copied(request.getfixturevalue(name), tmp_path)
    page = page_of(run)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    targets = [v for n, v in page.attributes if n in ("src", "href", "xlink:href", "action")]
    assert all(target.startswith("#") for target in targets)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w|@import", text)
    assert "url(" not in re.sub(r"url\(#\w+\)", "", text)
    assert (run / "report.html").stat().st_size < 1_000_000


def test_the_numbers_are_those_of_the_run(run: Path, tmp_path: Path) -> None:
    page = page_of(copied(run, tmp_path))
    tasks = json.loads((run / "validation.json").read_text())["tasks"]
    header = next(row for row in page.rows if row[:2] == ["task", "n"])
    for task, metrics in tasks.items():
        row = next(r for r in page.rows if r[0] == task and len(r) == len(header))
        for name, cell in zip(header[1:], row[1:], strict=True):
            value = metrics[name]
            shown = "-" if value is None else f"{value:,}" if isinstance(value, int) else None
            if name == "gauc":
                assert f"{metrics['gauc_groups']:,} of" in cell
                assert cell.startswith("-" if value is None else f"{value:.4f}")
            elif shown is None:
                assert float(cell) == pytest.approx(value, abs=6e-5)
            else:
                assert cell == shown
    assert "finished" in page.words
    assert "not finished" not in page.words


def test_populations_are_shown(run: Path, funnel: Path, tmp_path: Path) -> None:
    page = page_of(copied(run, tmp_path))
    rows = pl.read_parquet(funnel / "train.parquet")
    clicks = int(rows["click"].sum())
    row = next(r for r in page.rows if r[0] == "cvr" and "click = 1" in r[1])
    assert row[2] == f"{clicks:,}"
    assert row[4] == f"{int(rows['conversion'].sum()):,}"


def test_hostile_names_are_text(odd_run: Path, tmp_path: Path) -> None:
    page = page_of(copied(odd_run, tmp_path))
    assert HOSTILE in page.words
    assert all(segment in page.words for segment in SEGMENTS)
    assert page.tags.count("title") == 1


def test_a_regression_has_its_plot_and_no_reliability_of_its_own(
    odd_run: Path, tmp_path: Path
) -> None:
    page = page_of(copied(odd_run, tmp_path))
    assert "Predicted numbers" in page.words
    assert "validation RMSE, dwell" in page.words
    assert "mean label, band of 80 %" in page.words


def test_gates_of_every_level_are_shown(odd_run: Path, tmp_path: Path) -> None:
    page = page_of(copied(odd_run, tmp_path))
    levels = [row for row in page.rows if row and row[0].startswith("level ")]
    assert [row[0] for row in levels] == ["level 1", "level 2", "level 3"]
    assert all(row[1:3] == ["ctr 1", "ctr 2"] for row in levels)


def test_a_run_without_validation_says_so(plain_run: Path, tmp_path: Path) -> None:
    page = page_of(copied(plain_run, tmp_path))
    assert "The spec names no validation rows" in page.words
    assert "training loss" in page.words
    assert "Reliability" not in page.words
    assert "Gates" not in page.words


def test_an_interrupted_run_shows_what_there_is(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    interrupt(copy)
    (copy / "validation.json").unlink()
    lines = (copy / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(lines[:-20])  # killed while it wrote the last line
    page = page_of(copy)
    assert "not finished" in page.words
    assert "computed when training ends" in page.words
    assert "training loss" in page.words
    for name in ("metrics.jsonl", "plan.txt"):
        (copy / name).unlink()
    assert "not finished" in page_of(copy).words


def test_the_analysis_is_on_the_page(run: Path, tmp_path: Path) -> None:
    made = make_report(copied(run, tmp_path))
    page = Page(made.path.read_text(encoding="utf-8"))
    assert made.insights
    for insight in made.insights:
        assert insight.sentence.replace("`", "") in page.words
    conflict, importance = made.analysis.conflict, made.analysis.importance
    assert conflict is not None
    assert importance is not None
    assert made.analysis.missing is None
    (pair,) = conflict["pairs"]
    row = next(row for row in page.rows if row[0] == "ctr, cvr")
    assert row[1] == str(pair["rows"])
    assert row[2].startswith(f"{pair['cosine']:.3f}")
    for feature, (angles,) in conflict["features"].items():
        cells = [row[1] for row in page.rows if row[0] == feature and len(row) == 2]
        assert f"{angles['cosine']:.2f}" in "".join(cells)
    assert page.words.count("AUC less when shuffled") == 3
    assert all(feature in page.words for feature in importance["tasks"]["ctr"]["features"])
    assert "share their importance" in page.words


def test_the_health_of_experts_is_on_the_page(run: Path, tmp_path: Path) -> None:
    made = make_report(copied(run, tmp_path), analysis=False)
    page = Page(made.path.read_text(encoding="utf-8"))
    (level,) = made.summary["gates"]
    for task in ("ctr", "cvr"):
        effective = level["effective"][task]
        row = next(row for row in page.rows if row[0] == task and len(row) == 5)
        assert row[1:3] == [f"{weight:.2f}" for weight in level["gates"][task]]
        assert row[3:] == [f"{effective['of_means']:.2f}", f"{effective['of_rows']:.2f}"]
    spread = next(row for row in page.rows if row[0] == "its spread")
    assert spread[1:] == [f"{std:.3g}" for std in level["std"]]
    assert "left out (--no-analysis)" in page.words


def test_a_run_whose_data_is_gone_says_so(run: Path, funnel: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    interrupt(copy)
    with Run(copy).training(tmp_path / "gone"):
        Run(copy).finish({"best": {}, "rows_per_s": 1.0, "epochs": 1})
    found = make_report(copy).analysis
    assert (found.conflict, found.importance) == (None, None)
    assert found.missing is not None
    assert f"not in `{tmp_path / 'gone'}`" in found.missing
    assert "pass the folder where they are" in page_of(copy).words
    assert make_report(copy, data=funnel).analysis.importance is not None
    with pytest.raises(DataError, match=r"gone/train\.parquet"):
        make_report(copy, data=tmp_path / "gone")


def test_groups_and_refined_vectors_are_shown(
    home_run: Path, dtrn_run: Path, tmp_path: Path
) -> None:
    page = Page(write_report(home_run, analysis=False).read_text(encoding="utf-8"))
    gates = [row[0] for row in page.rows]
    assert {"self gate of act", "shared self gate", "self gate of cvr"} <= {*gates}
    page = Page(write_report(dtrn_run).read_text(encoding="utf-8"))
    row = next(row for row in page.rows if row[0] == "refinement")
    assert row[1:3] == ["user_id", "item_id"]


def test_many_segment_values_are_cut_to_the_largest(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    summary = json.loads((copy / "validation.json").read_text())
    some = next(iter(summary["segments"]["device"].values()))
    values = {f"v{n}": {t: {**m, "n": n} for t, m in some.items()} for n in range(50)}
    (copy / "validation.json").write_text(json.dumps({**summary, "segments": {"device": values}}))
    settle(copy)
    page = page_of(copy)
    assert "50 values, the largest 30 shown" in page.words
    named = {row[0] for row in page.rows}
    assert "v49" in named
    assert "v20" in named
    assert "v19" not in named


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("validation.json", b"{", r"validation\.json: is corrupt"),
        ("validation.json", b"[]", r"validation\.json: holds no JSON object"),
        ("validation.json", b'{"rows": 1}', r"validation\.json: is not recmtl's"),
        ("validation.json", b"\xff\xfe", r"validation\.json: is corrupt"),
        ("plan.txt", b"\xff", r"plan\.txt: is corrupt"),
        ("metrics.jsonl", b"{\n{}\n", r"metrics\.jsonl:1: is not JSON"),
        ("config.yaml", b"name: [", r"config\.yaml: cannot be read"),
    ],
)
def test_a_corrupt_file_is_named(
    file: str, content: bytes, message: str, run: Path, tmp_path: Path
) -> None:
    copy = copied(run, tmp_path)
    (copy / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{file}: its sha256 is not the recorded one"):
        write_report(copy)
    settle(copy)
    with pytest.raises(CheckpointError, match=message):
        write_report(copy)
    assert not (copy / "report.html").exists()


def test_versions_are_shown_for_each_start_that_had_others(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(run, tmp_path)
    assert "From the start on" not in page_of(copy).words
    interrupt(copy)
    with Run(copy).training():
        pass  # the same versions: nothing to say
    monkeypatch.setattr("recmtl.run.versions", lambda: {"torch": "9.9"})
    with Run(copy).training():
        pass
    words = page_of(copy).words
    assert "From the start on: python" in words
    assert re.findall(r"From step-\d{8} on: torch [\d.]+", words) == [
        f"From {read_index(copy / 'checkpoints').last} on: torch 9.9"
    ]
