"""`--search FILE`: dotted keys of a spec, each with a range or choices, and all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recmtl._checks import suggest
from recmtl.config import RunConfig
from recmtl.errors import SpecError
from recmtl.spec.dump import one_line
from recmtl.spec.yaml_loader import Document, YamlSyntaxError, read_document, read_text
from recmtl.studies.search import Choices, Range, SearchKey, override

__all__ = ["as_search_file", "read_search"]

_KEYS = ("low", "high", "log", "choices")
_FORM = "`{low: 0.001, high: 0.1, log: true}` or `{choices: [a, b]}`"
_REFUSED = {
    "data": "validation rows of one trial would not be those of another",
    "name": "it changes no number",
    "tasks": "trials would be judged on other labels; only `weight` and `group` of a task can be"
    " searched",
    "train.monitor": "it is what trials are judged by",
    "train.seed": "the best of several seeds is the luckiest one",
    "train.devices": "it changes no number",
    "train.sharding": "it changes no number",
    "train.compile": "it changes no number",
    "train.loggers": "it changes no number",
}
_OF_TASK = ("weight", "group")

Load = Callable[[Sequence[str]], RunConfig]


def read_search(search: str | Path | Mapping[str, Any], load: Load) -> tuple[SearchKey, ...]:
    """What a search file, or the same as a mapping, lets a search change.

    Args:
        search: a YAML file, or what stands in one.
        load: the spec with further overrides; says what its schema knows.

    Raises:
        SpecError: with every problem, each with file and line.
    """
    if isinstance(search, Mapping):
        lines = [f"{one_line(key)}: {one_line(value)}" for key, value in search.items()]
        return _parse("\n".join(lines), "search", load)
    return _parse(read_text(search), str(search), load)


def as_search_file(keys: Sequence[SearchKey], head: str) -> str:
    """Keys as a search file that reads back as they are, under a comment.

    Example:
        >>> print(as_search_file([Range("train.lr", 1e-4, 0.01, log=True)], "Searched."), end="")
        # Searched.
        train.lr: {low: 0.0001, high: 0.01, log: true}
    """
    lines = [f"{one_line(key.key)}: {one_line(key.as_json())}" for key in keys]
    return "\n".join([f"# {head}", *lines]) + "\n"


def _parse(text: str, source: str, load: Load) -> tuple[SearchKey, ...]:
    try:
        document = read_document(text)
    except YamlSyntaxError as error:
        at = "" if error.line is None else f":{error.line}"
        raise SpecError(f"{source}{at}: {error}") from None
    found = [(line, problem.message) for line, problem in document.problems]
    entries = document.data
    if not isinstance(entries, dict) or not entries:
        what = "is empty" if not entries else "is not a mapping of keys to what they may be"
        raise SpecError(
            f"{source}:1: the file {what}. Write `train.lr: ` and {_FORM}, for example."
        )
    reader = _Reader(document, load)
    written = [reader.key(key, entry) for key, entry in entries.items()]
    keys = reader.known([key for key in written if key is not None])
    found += reader.problems
    if found:
        found.sort(key=lambda item: item[0])
        raise SpecError.all_of(
            list(dict.fromkeys(f"{source}:{line}: {message}" for line, message in found))
        )
    return tuple(keys)


class _Reader:
    """Reads one entry after the other, and keeps what is wrong with its line."""

    def __init__(self, document: Document, load: Load) -> None:
        self.problems: list[tuple[int, str]] = []
        self._document, self._load = document, load

    def _wrong(self, path: tuple[str | int, ...], message: str) -> None:
        lines = self._document.lines
        line = next(lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines)
        self.problems.append((line, f"`{path[0]}`: {message}"))

    def key(self, key: str, entry: Any) -> SearchKey | None:
        """A key as it is written; None where something is wrong with it."""
        before = len(self.problems)
        if (why := _refused(key)) is not None:
            self._wrong((key,), f"cannot be searched: {why}. Leave it out.")
        if not isinstance(entry, dict) or not set(entry) & set(_KEYS):
            hint = " A key of a section is dotted, as in `train.lr`." if entry else ""
            hint = hint if isinstance(entry, dict) else ""
            self._wrong((key,), f"must be {_FORM}, got {one_line(entry)}.{hint}")
            return None
        for name in entry:
            if name not in _KEYS:
                self._wrong((key, name), f"unknown key `{name}`.{suggest(name, _KEYS)}")
        if len(self.problems) > before:
            return None
        if "choices" in entry:
            return self._choices(key, entry)
        return self._range(key, entry)

    def _choices(self, key: str, entry: dict[str, Any]) -> Choices | None:
        choices = entry["choices"]
        if len(entry) > 1:
            others = ", ".join(f"`{name}`" for name in entry if name != "choices")
            self._wrong((key,), f"has `choices` and {others}. Write {_FORM}.")
        elif not isinstance(choices, list) or not choices:
            self._wrong((key, "choices"), f"`choices` must be a list, got {one_line(choices)}.")
        elif (repeated := _repeated(choices)) is not None:
            self._wrong((key, "choices"), f"`choices` names {one_line(repeated)} twice.")
        else:
            return Choices(key, tuple(choices))
        return None

    def _range(self, key: str, entry: dict[str, Any]) -> Range | None:
        low: Any = entry.get("low")
        high: Any = entry.get("high")
        log = entry.get("log", False)
        before = len(self.problems)
        for name, value in (("low", low), ("high", high)):
            if name not in entry:
                self._wrong((key,), f"`{name}` is missing. Write {_FORM}.")
            elif not _is_number(value):
                self._wrong((key, name), f"`{name}` must be a number, got {one_line(value)}.")
        if not isinstance(log, bool):
            self._wrong((key, "log"), f"`log` must be true or false, got {one_line(log)}.")
        if len(self.problems) > before:
            return None
        if not low < high:
            self._wrong((key, "high"), f"`high` must be above `low`, got {low} and {high}.")
        elif log and not low > 0:
            hint = "List `choices` where 0 should be one of the values."
            self._wrong((key, "low"), f"`low` must be above 0 where `log` is, got {low}. {hint}")
        else:
            return Range(key, low, high, log)
        return None

    def known(self, keys: Sequence[SearchKey]) -> list[SearchKey]:
        """The same, once the spec was loaded with each value; whole where it takes no fraction."""
        found = list[SearchKey]()
        for key in keys:
            above = [
                override(other.key, value)
                for other in keys
                if isinstance(other, Choices) and key.key.startswith(f"{other.key}.")
                for value in other.values
            ]
            before = len(self.problems)
            for path, value in _candidates(key):
                for message in self._said(key.key, value, above):
                    self._wrong(path, message)
            is_right = len(self.problems) == before
            if is_right and isinstance(key, Range) and isinstance(key.low, int):
                is_whole = isinstance(key.high, int) and bool(
                    self._said(key.key, key.low + 0.5, above)
                )
                found.append(replace(key, is_whole=is_whole))
            else:
                found.append(key)
        return found

    def _said(self, key: str, value: Any, above: Sequence[str]) -> list[str]:
        """What is wrong with a value in the spec, and with each choice of the section it is in."""
        first: list[str] = []
        for more in ((), *((text,) for text in above)):
            text = override(key, value)
            try:
                self._load([*more, text])
            except SpecError as error:
                mark = f"override `{text}`: "
                lines = [line.removeprefix(mark) for line in str(error).splitlines()]
                first = first or [f"{one_line(value)}: {line}" for line in lines]
            else:
                return []
        return first


def _candidates(key: SearchKey) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Values to try, and where each is written."""
    if isinstance(key, Range):
        yield (key.key, "low"), key.low
        yield (key.key, "high"), key.high
    else:
        for n, value in enumerate(key.values):
            yield (key.key, "choices", n), value


def _refused(key: str) -> str | None:
    parts = key.split(".")
    if parts[0] == "tasks" and parts[-1] in _OF_TASK:
        return None
    return next(
        (why for name, why in _REFUSED.items() if key == name or key.startswith(f"{name}.")), None
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _repeated(values: Sequence[Any]) -> Any:
    return next((value for n, value in enumerate(values) if value in values[:n]), None)
