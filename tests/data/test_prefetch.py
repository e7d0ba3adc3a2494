from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from recmtl.data.prefetch import prefetched


def workers() -> int:
    return sum(t.name == "recmtl-prefetch" for t in threading.enumerate())


def test_all_items_in_order_and_no_thread_is_left() -> None:
    assert list(prefetched(range(1000), ahead=3)) == list(range(1000))
    assert workers() == 0


def test_the_error_of_the_source_is_raised_in_its_place() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    items = prefetched(source())
    assert next(items) == 1
    with pytest.raises(KeyError, match="gone"):
        next(items)
    assert workers() == 0


def test_it_works_no_further_ahead_than_told() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    items = prefetched(source(), ahead=2)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(made) <= 5
    items.close()  # type: ignore[attr-defined]
    assert workers() == 0


def test_leaving_stops_the_thread() -> None:
    items = prefetched(iter(int, 1), ahead=1)
    next(items)
    del items
    gc.collect()
    assert workers() == 0
    for _ in prefetched(iter(int, 1)):
        break
    gc.collect()
    assert workers() == 0


def test_nothing_starts_before_the_first_item_is_wanted() -> None:
    prefetched(range(3))
    assert workers() == 0


@pytest.mark.slow
def test_an_abandoned_iterator_does_not_hold_up_the_exit() -> None:
    code = (
        "from recmtl.data.prefetch import prefetched\n"
        "items = prefetched(iter(int, 1)); next(items); print('end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
