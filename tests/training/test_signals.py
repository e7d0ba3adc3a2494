"""Requests to stop."""

from __future__ import annotations

import signal
import threading

import pytest

from recmtl.training.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopRequest()
    with stop.on_signals():
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_other_threads_leave_signals_alone() -> None:
    before, during = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StopRequest().on_signals():
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == [before]
