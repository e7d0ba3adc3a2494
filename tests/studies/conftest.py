"""The command line, called in this process."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from recmtl.cli import main


@pytest.fixture
def recmtl_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, stdout and stderr of a command."""

    def call(*arguments: object) -> tuple[int, str, str]:
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        signal.signal(signal.SIGTERM, before)
        return int(str(ended.value.code)), *capsys.readouterr()

    return call
