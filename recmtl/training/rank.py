"""One of the processes that `recmtl train` starts, run by its path: ``python .../rank.py JOB FD``.

It prints nothing, ignores Ctrl-C (rank 0 decides when all of them stop), and leaves when rank 0
does, whatever it is in the middle of: the imports too, which is why they stand inside.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

__all__: list[str] = []

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(job: str, report_fd: str) -> None:
    """Do the job, which is a JSON object, and report on the pipe of a number."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_leave_with_the_parent, name="recmtl-lifeline", daemon=True).start()
    from recmtl.training.failures import as_record

    with os.fdopen(int(report_fd), "w", encoding="utf-8") as reports:
        code = 0
        try:
            _train(json.loads(job), reports)
            _say(reports, done=True)
        except BaseException as error:  # whatever it is, rank 0 says it
            record = as_record(error)
            code = record["code"]
            with suppress(OSError):  # rank 0 may be gone
                _say(reports, failure=record)
    # Threads of torch and gloo have aborted an interpreter that was leaving; nothing is left to do.
    sys.stderr.flush()
    os._exit(code)


def _train(job: dict[str, Any], reports: TextIO) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is public

    from recmtl.run import Run
    from recmtl.training.fit import fit
    from recmtl.training.team import Team

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    run = Run(job["run"])
    placement = {"devices": world_size, "sharding": job["sharding"]}
    train = run.config.train.model_copy(update=placement)
    config, encoders = run.config.model_copy(update={"train": train}), run.encoders
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    team = Team(
        rank=rank,
        world_size=world_size,
        local_rank=rank,
        local_world_size=world_size,
        store=TCPStore(address, port, is_master=False),
        is_local=True,
        is_led=True,
    )
    _say(reports, ready=True)
    fit(config, encoders, data_dir=Path(job["data_dir"]), folder=run.path, team=team)


def _say(reports: TextIO, **what: Any) -> None:
    reports.write(json.dumps(what) + "\n")
    reports.flush()


def _leave_with_the_parent() -> None:
    """End this process when the pipe to its parent closes, which no parent can forget to do."""
    while os.read(0, 1):
        continue
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
