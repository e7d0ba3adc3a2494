"""A process that `recmtl score` starts, run by its path: ``python .../worker.py JOB FD``.

It prints nothing and ignores Ctrl-C: the process that started it decides when both stop. It asks
for one part after another on the pipe of a number, as JSON lines, is answered on stdin, and leaves
when that process does, whatever it is in the middle of: the imports too, which is why they stand
inside.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

__all__: list[str] = []

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(job: str, report_fd: str) -> None:
    """Score parts until there are no more, and report on the pipe of a number."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    answers = queue.SimpleQueue[int]()
    threading.Thread(target=_listen, args=(answers,), name="recmtl-lifeline", daemon=True).start()
    from recmtl._processes import as_record

    code = 0
    with os.fdopen(int(report_fd), "w", encoding="utf-8") as reports:
        try:
            _score(json.loads(job), reports, answers)
            _say(reports, done=True)
        except BaseException as error:  # whatever it is, the process that waits for it says it
            code = 1
            with suppress(OSError):  # it may be gone
                _say(reports, failure=as_record(error))
    os._exit(code)


def _score(job: dict[str, Any], reports: TextIO, answers: queue.SimpleQueue[int]) -> None:
    from recmtl.data.stamp import stamp_of
    from recmtl.errors import CheckpointError, DataError
    from recmtl.scoring.drift import read_reference
    from recmtl.scoring.parts import Job, open_for_scoring, write_parts
    from recmtl.scoring.scorer import BatchScorer

    scorer = BatchScorer(
        job["run"], keep=job["keep"], tables=job["tables"], calibrated=job["calibrated"]
    )
    log = open_for_scoring(scorer, job["data"])
    if scorer.fingerprint != job["model"]:
        raise CheckpointError(f"{job['run']}: the run changed while it scored. Start again.")
    if [[str(file), *stamp_of(file.stat())] for file in log.files] != job["files"]:
        raise DataError(f"{job['data']}: the log changed while it was scored. Start again.")
    _ = scorer.net
    talking = threading.Lock()

    def say(**what: Any) -> None:
        with talking:
            _say(reports, **what)

    def parts() -> Iterator[int]:
        while True:
            say(wants=True)
            part = answers.get()
            if part < 0:
                return
            yield part

    write_parts(
        scorer,
        log,
        Job(
            out=Path(job["out"]),
            num_rows=log.num_rows,
            part_rows=job["part_rows"],
            memory_bytes=job["memory_bytes"],
            threads=job["threads"],
        ),
        parts(),
        reference=read_reference(scorer),
        on_rows=lambda rows: say(rows=rows),
        on_written=lambda part, sha256: say(part=part, sha256=sha256),
    )


def _say(reports: TextIO, **what: Any) -> None:
    reports.write(json.dumps(what) + "\n")
    reports.flush()


def _listen(answers: queue.SimpleQueue[int]) -> None:
    """Take numbers of parts in; end this process when the pipe to its parent closes."""
    for line in sys.stdin:
        answers.put(int(line))
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
