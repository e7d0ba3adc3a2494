"""A process that works for this one, lives no longer than it, and tells it things.

The child's stdin is a pipe that this process holds: when it closes, by whatever end this process
comes to, the child leaves at once. What the child has to say goes through another pipe, as JSON
lines.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from recmtl._processes import how_it_ended

__all__ = ["Child"]

_LAST_WORDS_S = 10.0
_STDERR_CHARS = 2000


class Child:
    """A file of this package as a process, and a thread that listens to it.

    The process is started with SIGINT and SIGTERM blocked: Ctrl-C reaches it too, so it unblocks
    them once it ignores them. What it prints goes nowhere; what it writes to stderr is kept.

    Args:
        script: the file. With `-m`, the package would be imported before a line of it runs.
        arguments: of the file; the descriptor to report on comes last.
        environment: of the process.
        inherited: descriptors that it gets.
        hear: called with each thing that it says, by another thread.
        on_end: called by that thread when it has ended.

    Attributes:
        process: the process.
        ended: set when it has ended and all that it said was heard.
        failure: what `hear` raised; the process was killed then.
    """

    def __init__(
        self,
        script: Path,
        *arguments: str,
        environment: Mapping[str, str],
        hear: Callable[[Any], None],
        on_end: Callable[[], None] = lambda: None,
        inherited: Sequence[int] = (),
    ) -> None:
        self.ended = threading.Event()
        self.failure: Exception | None = None
        self._hear, self._on_end = hear, on_end
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        receiving, sending = os.pipe()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(script), *arguments, f"{sending}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[sending, *inherited],
                env=environment,
            )
        except BaseException:
            os.close(receiving)
            self._stderr.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(sending)
        name = f"recmtl-{script.stem}-{self.process.pid}"
        self._thread = threading.Thread(
            target=self._listen, args=(receiving,), name=name, daemon=True
        )
        self._thread.start()

    def _listen(self, receiving: int) -> None:
        try:
            with os.fdopen(receiving, encoding="utf-8") as reports:
                for line in reports:
                    with suppress(json.JSONDecodeError):  # of one that was killed in mid-word
                        self._hear(json.loads(line))
        except Exception as error:  # the disk is full: the main thread has to know
            self.failure = error
            self.process.kill()
        finally:
            self.process.wait()
            self.ended.set()
            self._on_end()

    def say(self, what: Any) -> None:
        """Write a line of JSON to its stdin."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):  # it is gone, or was asked to leave
            self.process.stdin.write(json.dumps(what).encode() + b"\n")
            self.process.stdin.flush()

    def how_it_ended(self) -> tuple[str, str]:
        """How it ended, in words, and the end of what it wrote to stderr, if anything."""
        how = how_it_ended(self.process.wait())
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()[-_STDERR_CHARS:]
        return how, f" It said:\n{said}" if said else ""

    def ask_to_leave(self) -> None:
        """Close the pipe that it lives by."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def end(self, patience_s: float) -> None:
        """Make sure that it is gone: ask it to leave, wait, then kill it."""
        self.ask_to_leave()
        if not self.ended.wait(patience_s):
            self.process.kill()
            self.ended.wait(_LAST_WORDS_S)
        self._thread.join(_LAST_WORDS_S)
        self._stderr.close()
