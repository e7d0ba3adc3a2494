"""Progress on a terminal, in a log file, and nowhere."""

from __future__ import annotations

import io

import pytest

from recmtl._progress import (
    PlainProgress,
    RichProgress,
    no_progress,
    silent_if_none,
    terminal_progress,
)


class Terminal(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_values() -> None:
    stream = Terminal()
    progress = terminal_progress(stream)
    assert isinstance(progress, RichProgress)
    with progress("epoch 1 of 2", 10, "rows", done=4) as bar:
        bar.advance(6, ctr=0.25)
    shown = stream.getvalue()
    assert "epoch 1 of 2" in shown
    assert "ctr 0.2500" in shown
    assert "100 %" in shown


def test_a_log_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 4.0, 12.0, 12.0, 20.0])
    monkeypatch.setattr("recmtl._progress.time.monotonic", lambda: next(now))
    stream = io.StringIO()
    with PlainProgress(stream)("train", 3000, "rows", done=1000) as bar:
        bar.advance(500, ctr=0.5)
        bar.advance(500, ctr=0.25)
        bar.advance(1000)
    assert stream.getvalue().splitlines() == [
        "train: 3,000 rows, 1,000 done before",
        "train: 2,000 of 3,000 rows (66 %), 83 rows/s, 12 s left, ctr 0.2500",
        "train: 3,000 of 3,000 rows (100 %), 100 rows/s, ctr 0.2500",
    ]


def test_work_of_no_units_is_done_at_once() -> None:
    stream = io.StringIO()
    with PlainProgress(stream)("encode", 0, "rows"):
        pass
    assert "0 of 0 rows (100 %)" in stream.getvalue()


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    assert silent_if_none(None) is no_progress
    with no_progress("train", 2, "rows") as bar:
        bar.advance(2, ctr=0.1)
    assert capfd.readouterr() == ("", "")
