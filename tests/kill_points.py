"""Where processes are killed: a name in words, and the point as `kill_at` knows it."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["REPORT", "SCORE", "SIGNALS", "TEAM", "TRAIN", "Case"]


class Case(NamedTuple):
    """One command that is killed, at one point after another; then it is repeated."""

    name: str
    points: list[dict[str, Any]]
    suite: bool = False
    """Whether the test suite has it; all of them are in `examples/benchmarks/kills.py`."""
    overwrite: bool = False


def at(name: str, like: str = "", nth: int = 1, when: str = "before", **more: Any) -> Any:
    """A point."""
    return {"at": name, "like": like, "nth": nth, "when": when, **more}


NO_EXCHANGE = {"recmtl._files:_exchange": False}
"""A file system on which two folders cannot change places."""
RUN = r"/run$"

TRAIN = [
    Case("fitting encoders", [at("bar", "^fit encoders", 1)]),
    Case("encoding validation rows", [at("bar", "^check validation", 1)]),
    Case("the encoders are half written", [at("os:replace", r"files\.json$")]),
    Case("before the run has its name", [at("os:rename", RUN)]),
    Case("after the run has its name", [at("os:rename", RUN, when="after")]),
    Case("before the first step", [at("os:replace", r"plan\.txt$")]),
    Case("first epoch, before a checkpoint", [at("bar", "^epoch 1", 3)]),
    Case("first epoch, between checkpoints", [at("bar", "^epoch 1", 18)], suite=True),
    Case("second epoch", [at("bar", "^epoch 2", 23)]),
    Case("tensors of a checkpoint are written", [at("recmtl.checkpoint.tensors:finish", nth=3)]),
    Case("before a checkpoint is renamed", [at("os:rename", r"/step-\d+$", 3)]),
    Case("after a checkpoint is renamed", [at("os:rename", r"/step-\d+$", 3, "after")], suite=True),
    Case("before the index names it", [at("os:replace", r"index\.json$", 4)]),
    Case("after the index names it", [at("os:replace", r"index\.json$", 4, "after")]),
    Case(
        "between the index and the removal of old ones",
        [at("recmtl.training.checkpoints:tidy", nth=4)],
    ),
    Case("while old checkpoints are removed", [at("os:unlink", r"state\.json$", 2)]),
    Case(
        "after the last index, before old ones go",
        [at("recmtl.training.checkpoints:tidy", nth=31)],
        suite=True,
    ),
    Case("a line of metrics.jsonl is due", [
        at("recmtl.training.reporting:JsonLinesLogger.log_metrics", nth=7)
    ]),
    Case("a line of metrics.jsonl is written", [
        at("recmtl.training.reporting:JsonLinesLogger.log_metrics", nth=7, when="after")
    ]),
    Case("validation, first epoch", [at("bar", "^validation$", 4)]),
    Case("validation, last epoch", [at("bar", "^validation$", 13)]),
    Case("metrics of a validation", [
        at("recmtl.training.module:MultiTaskModule.on_validation_epoch_end", nth=2)
    ]),
    Case("validation summary", [at("bar", "^validation summary", 1)]),
    Case("before validation.json is renamed", [at("os:replace", r"validation\.json$")]),
    Case("after validation.json is renamed", [at("os:replace", r"validation\.json$", 1, "after")]),
    Case("before the run is finished", [at("os:replace", r"run\.json$")]),
    Case("while leftovers are removed", [at("recmtl.run:sweep_within")]),
    Case("after the run is finished", [at("os:replace", r"run\.json$", 1, "after")]),
    Case("three times: epoch, checkpoint, validation", [
        at("bar", "^epoch 1", 40),
        at("os:rename", r"/step-\d+$", 5),
        at("bar", "^validation$", 2),
    ], suite=True),
    Case("versions.json of a restart", [
        at("bar", "^epoch 1", 40), at("os:replace", r"versions\.json$")
    ]),
    Case("overwriting: before the exchange", [at("recmtl._files:_exchange")], overwrite=True),
    Case(
        "overwriting: after the exchange",
        [at("recmtl._files:_exchange", when="after")],
        suite=True,
        overwrite=True,
    ),
    Case("overwriting without exchange: nothing renamed", [
        at("os:replace", r"/run ", also=NO_EXCHANGE)
    ], overwrite=True),
    Case("overwriting without exchange: the old one renamed", [
        at("os:replace", r"/run ", 1, "after", also=NO_EXCHANGE)
    ], suite=True, overwrite=True),
    Case("overwriting without exchange: the new one in place", [
        at("os:replace", r"/run$", 1, "after", also=NO_EXCHANGE)
    ], overwrite=True),
]  # fmt: skip
"""Training, of 75 steps an epoch, with a checkpoint every 5 and a line every 3."""

SCORE = [
    Case("before the folder is claimed", [at("os:replace", r"\.scoring\.json$")], suite=True),
    Case("after the folder is claimed", [at("os:replace", r"\.scoring\.json$", 1, "after")]),
    Case("in the middle of the second part", [
        at("recmtl.scoring.scorer:BatchScorer.scores", nth=2)
    ]),
    Case("before the second part is renamed", [at("os:replace", r"part-00001")], suite=True),
    Case("between two parts", [at("os:replace", r"part-00001", 1, "after")], suite=True),
    Case("before the manifest is renamed", [at("os:replace", r"manifest\.json$")]),
    Case("after the manifest is renamed", [at("os:replace", r"manifest\.json$", 1, "after")]),
    Case("twice: in two parts", [
        at("os:replace", r"part-00000"), at("os:replace", r"part-00001")
    ]),
]  # fmt: skip
"""Scoring, of three parts."""

REPORT = [
    Case("while it is drawn", [at("recmtl.report.plots:lines_plot")]),
    Case("before the page is renamed", [at("os:replace", r"report\.html$")], suite=True),
    Case("after the page is renamed", [at("os:replace", r"report\.html$", 1, "after")]),
]
"""The report of a finished run."""

TEAM = [
    Case("the first of two, in an epoch", [at("bar", "^epoch 1", 18)]),
    Case("the first of two, before a checkpoint is renamed", [at("os:rename", r"/step-\d+$", 3)]),
    Case("the first of two, in validation", [at("bar", "^validation$", 4)]),
    Case("the second of two, in an epoch", [at("bar", "^epoch 1", 18, victim="child")]),
    Case("the second of two, in validation", [at("bar", "^validation$", 4, victim="child")]),
    Case("the second of two, while a checkpoint is written", [
        at("recmtl.checkpoint.tensors:finish", nth=3, victim="child")
    ]),
]  # fmt: skip
"""Training with two processes."""

SIGNALS = [
    Case(f"{number} in {phase}", [{**point, "signal": number}])
    for number in ("SIGINT", "SIGTERM")
    for phase, point in {
        "fitting": at("bar", "^fit encoders"),
        "an epoch": at("bar", "^epoch 1", 18),
        "validation": at("bar", "^validation$", 3),
        "the validation summary": at("bar", "^validation summary"),
    }.items()
]
"""Training that is asked to stop: it ends with 130."""
