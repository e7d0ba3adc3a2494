"""What a search says: of its values, of what chose them, and of what failed."""

from __future__ import annotations

from typing import Any

import pytest

from recmtl.studies.tune_pages import as_html, as_markdown, as_text


def trial(number: int, value: float | None, lr: float, wide: str, **changes: Any) -> dict[str, Any]:
    return {
        "number": number,
        "params": {"train.lr": lr, "wide": wide, "tower.expert_widths": [8]},
        "value": value,
        "metrics": None,
        "seconds": 1200.4,
        "message": None,
        "exit_code": None,
        **changes,
    }


SUMMARY: dict[str, Any] = {
    "name": "shop",
    "monitor": "ctr/logloss",
    "mode": "min",
    "values": {"as_it_stands": 0.6, "best": 0.55, "gain": 0.05},
    "best": 2,
    "changed": {"train.lr": {"from": 0.5, "to": 0.0123}},
    "search": {
        "train.lr": {"low": 0.01, "high": 0.1, "log": True},
        "wide": {"choices": ["none", "fm"]},
        "tower.expert_widths": {"choices": [[8], [16]]},
    },
    "outside": ["train.lr"],
    "held": {"tower.dropout": "tower.dropout=0"},
    "trials": [
        trial(0, 0.6, 0.5, "none"),
        trial(1, None, 0.03, "fm", message="SpecError: no <b>.", exit_code=2),
        trial(2, 0.55, 0.0123, "none"),
        trial(3, 0.58, 0.02, "fm"),
    ],
    "failed": [{"number": 1, "message": "SpecError: no <b>.", "exit_code": 2, "again": False}],
    "rows": {"training": 1024, "validation": 2048},
    "seed": 0,
    "jobs": 2,
    "threads": 1,
    "spec_file": "out/spec.yaml",
    "run": "out/trials/002",
    "command": "recmtl tune spec.yaml --out out",
    "date": "2026-01-01",
    "machine": "a machine",
    "versions": {"python": "3.11"},
    "spec": "abc",
}


def test_the_markdown_says_what_was_found() -> None:
    text = as_markdown(SUMMARY)
    assert "**ctr/logloss** on 2,048 validation rows: .6000 as the spec stands, .5500" in text
    assert "the best: +.0500 for the better." in text
    assert "These rows chose the best of 3 trials" in text
    assert "`recmtl eval out/trials/002 --data TEST`" in text
    assert "`recmtl compare out/spec.yaml --test TEST --out DIR`" in text
    assert "another `train.seed`" in text
    assert "`tower.dropout` was not searched, as `tower.dropout=0` settles it." in text
    assert "The spec's own `train.lr` lies outside" in text
    assert "**Trial 1 failed:** SpecError: no <b>." in text
    assert "lower is better" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows == [
        "| key | as it stands | best trial |",
        "| train.lr | 0.5 | 0.0123 |",
        "| trial | ctr/logloss | s | train.lr | wide | tower.expert_widths |",
        "| 2 | .5500 | 1,200 | 0.0123 | none | [8] |",
        "| 3 | .5800 | 1,200 | 0.02 | fm | [8] |",
        "| 0 | .6000 | 1,200 | 0.5 | none | [8] |",
        "| 1 | failed | 1,200 | 0.03 | fm | [8] |",
    ]


def test_the_page_has_a_plot_of_the_course_and_of_every_key() -> None:
    page = as_html(SUMMARY)
    assert page.count("<svg") == 4
    assert "ctr/logloss by trial" in page
    assert ">[16]<" in page  # a choice that nothing was tried of has its place
    assert "no &lt;b&gt;." in page
    assert "<code>recmtl tune spec.yaml --out out</code>" in page
    assert "no <b>." not in page


@pytest.mark.parametrize("count", [1, 3])
def test_a_search_that_found_nothing_says_so(count: int) -> None:
    values = {"as_it_stands": 0.6, "best": 0.6, "gain": 0.0}
    trials = [trial(n, 0.6 + n, 0.02, "fm") for n in range(count)]
    nothing = {"best": 0, "values": values, "changed": {}, "trials": trials, "failed": []}
    lines = as_text({**SUMMARY, **nothing, "held": {}, "outside": []})
    others = "none of the others was better" if count > 1 else "no other trial has a value"
    assert lines == [f"ctr/logloss on 2,048 validation rows: .6000 as the spec stands; {others}."]


def test_the_command_line_says_it_without_marks() -> None:
    lines = as_text(SUMMARY)
    assert lines[0].startswith("ctr/logloss on 2,048")
    assert lines[1].split() == ["key", "as", "it", "stands", "best", "trial"]
    assert lines[2].split() == ["train.lr", "0.5", "0.0123"]
    assert not [line for line in lines if "**" in line]
    many = [{**SUMMARY["failed"][0], "number": n, "again": True} for n in range(8)]
    said = "\n".join(as_text({**SUMMARY, "failed": many}))
    assert said.count("The same command tries it again.") == 5
    assert "3 more trials failed; see tune.json." in said
