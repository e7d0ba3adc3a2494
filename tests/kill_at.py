"""Run `recmtl` and end it at a named point: the process does it to itself, so that it is exact.

    python tests/kill_at.py '{"at": "os:rename", "nth": 2, "like": "step-"}' train SPEC --out RUN
    python tests/kill_at.py --serve

A point is a call of `at` (`module:function` or `module:Class.method`), the `nth` whose arguments
look like `like`; `when` is `before` or `after` it; `signal` is sent, to a process that trains with
this one where `victim` is `child`. `also` makes functions return a value. With `--serve` it reads
one JSON list `[point or null, arguments]` a line, and answers with `[code, stderr]`: each call runs
in a fork of a process that has imported what it needs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
sys.path[0] = str(Path(__file__).parents[1])

NAMED = {
    # A bar of such a title moves: in the middle of fitting, of an epoch, of scoring and so on.
    "bar": ("recmtl._progress:_PlainBar.advance", "description"),
}


def arm(point: dict[str, Any]) -> None:
    """Make the process end itself at a point."""
    for name, value in point.get("also", {}).items():
        owner, attribute = _owner(name)
        setattr(owner, attribute, lambda *args, _value=value, **kwargs: _value)
    at, told_by = NAMED.get(point["at"], (point["at"], None))
    owner, attribute = _owner(at)
    original, calls = getattr(owner, attribute), [0]
    like, when = re.compile(point.get("like", "")), point.get("when", "before")
    number = getattr(signal, point.get("signal", "SIGKILL"))

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        said = str(getattr(args[0], told_by)) if told_by else " ".join(map(str, args))
        calls[0] += bool(like.search(said))
        is_now = bool(like.search(said)) and calls[0] == point.get("nth", 1)
        if is_now and when == "before":
            os.kill(_victim(point), number)
        result = original(*args, **kwargs)
        if is_now and when == "after":
            os.kill(_victim(point), number)
        return result

    setattr(owner, attribute, watched)


def _victim(point: dict[str, Any]) -> int:
    """This process, or the one that trains with it."""
    if point.get("victim") != "child":
        return os.getpid()
    found = psutil.Process().children(recursive=True)
    return next(c.pid for c in found if re.search("training[./]rank", " ".join(c.cmdline())))


def _owner(name: str) -> tuple[Any, str]:
    module, _, path = name.partition(":")
    *classes, attribute = path.split(".")
    owner: Any = importlib.import_module(module)
    for one in classes:
        owner = getattr(owner, one)
    return owner, attribute


def run(point: dict[str, Any] | None, arguments: list[str]) -> None:
    """`recmtl ARGUMENTS`, ended at a point."""
    if point is not None:
        arm(point)
    from recmtl.cli import main

    main(arguments)


def serve() -> None:
    """Answer calls until there are no more."""
    for module in ("api", "cli.app", "doctor", "report", "scoring", "training", "simulate"):
        importlib.import_module(f"recmtl.{module}")
    for line in sys.stdin:
        point, arguments = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.dup2(writing, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code: Any = 70
            try:
                with contextlib.suppress(BrokenPipeError):
                    run(point, arguments)
            except SystemExit as ended:
                code = ended.code or 0
            finally:
                sys.stderr.flush()
                os._exit(code if isinstance(code, int) else 70)
        os.close(writing)
        with open(reading, encoding="utf-8", errors="replace") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), said]), flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve()
    else:
        run(json.loads(sys.argv[1]), sys.argv[2:])
