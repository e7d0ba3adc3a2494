"""Files that appear whole or not at all, what killed processes left of them, and their sha256."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recmtl.errors import RecMTLError, SpecError

__all__ = [
    "as_json",
    "atomic_folder",
    "atomic_path",
    "exclusive",
    "in_words",
    "is_leftover",
    "is_name",
    "naming",
    "recover",
    "require_writable",
    "sha256_of",
    "sweep",
    "sweep_within",
    "write_json",
    "write_text",
]

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PLACE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
_CANNOT_WRITE = {*_FULL, errno.EROFS}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_NAME = re.compile(r"[^\x00-\x1f/\\.][^\x00-\x1f/\\]{0,199}")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_UNTOUCHED_NS = 1


@contextmanager
def atomic_path(path: Path, *, tidy: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is flushed and renamed to `path`.

    Args:
        path: what is to be written.
        tidy: whether to remove what killed processes left of `path`, once it is there.

    Raises:
        OSError: it could not be written; the error names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        with _held(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR):
            os.utime(temporary, ns=(_UNTOUCHED_NS, _UNTOUCHED_NS))
            try:
                yield temporary
                _require_written(temporary, path)
                _fsync(temporary)
                os.replace(temporary, path)
                _fsync(path.parent)
            except RecMTLError:
                raise
            except Exception:
                _require_room(temporary)  # polars does not always say why it could not write
                raise
            finally:
                temporary.unlink(missing_ok=True)
    if tidy:
        sweep(path)


@contextmanager
def atomic_folder(folder: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary folder; on success it is flushed and takes the place of `folder`.

    Args:
        folder: what is to be written.
        replace: whether it may take the place of a folder that holds something.

    Raises:
        OSError: it could not be written; the error names `folder`.
    """
    if folder.is_symlink():
        folder = folder.resolve()  # the link stays, and what it leads to is replaced
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(folder)
        temporary.mkdir()
        with _held(temporary, os.O_RDONLY):
            try:
                yield temporary
                publish_folder(temporary, folder, replace=replace)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    sweep(folder)


def publish_folder(temporary: Path, folder: Path, *, replace: bool = True) -> None:
    """Flush every file of a finished temporary folder and rename it to `folder`.

    A folder that is there already changes places with it at once, where the file system can do
    that. Elsewhere it is renamed first: a process killed between the two renames leaves it to
    `recover`.
    """
    for file in temporary.rglob("*"):
        if file.is_file():
            _fsync(file)
    _fsync(temporary)
    if replace and folder.exists():
        if _exchange(temporary, folder):
            old = temporary
        else:
            old = folder.with_name(_temporary(folder).name.removesuffix("tmp") + "old")
            os.replace(folder, old)
            os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(temporary, folder)
    _fsync(folder.parent)


def recover(path: Path) -> bool:
    """Put a folder back that a process killed while replacing it had renamed; whether it did."""
    if path.exists() or not path.parent.is_dir():
        return False
    for found in sorted(path.parent.iterdir()):
        about = _LEFTOVER.fullmatch(found.name)
        if about is not None and about["kind"] == "old" and about["name"] == path.name:
            with suppress(OSError):
                os.rename(found, path)
                return True
    return False


def sweep(path: Path) -> None:
    """Remove what killed processes left of `path`; what a living one still writes stays."""
    if not path.exists():
        return  # what is left may be all that there is
    for found in list(path.parent.iterdir()):
        if is_leftover(found.name, path.name) and _is_abandoned(found):
            with suppress(OSError):
                shutil.rmtree(found) if found.is_dir() else found.unlink()


def sweep_within(folder: Path) -> None:
    """Remove what killed processes left of anything in a folder, at any depth."""
    for found in list(folder.rglob(".*")):
        if is_leftover(found.name) and _is_abandoned(found):
            with suppress(OSError):
                shutil.rmtree(found) if found.is_dir() else found.unlink()


def is_leftover(name: str, of: str | None = None) -> bool:
    """Whether a name is one that these functions give a file or folder on its way.

    Args:
        name: name of a file or folder.
        of: what it is on the way to (default: anything).

    Example:
        >>> is_leftover(".run.0a1b2c3d.tmp", "run"), is_leftover(".run.backup.tmp", "run")
        (True, False)
    """
    about = _LEFTOVER.fullmatch(name)
    return about is not None and of in (None, about["name"])


def is_name(value: object) -> bool:
    """Whether a value read from a file names something in its own folder, and nowhere else.

    Example:
        >>> is_name("step-00000001"), is_name("../a"), is_name(".."), is_name("a" * 300), is_name(1)
        (True, False, False, False, False)
    """
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def require_writable(path: Path) -> None:
    """Find out, without writing, whether `path` could be made, before long work begins.

    Raises:
        OSError: it lies below a file, or in a folder or file system that cannot be written.
    """
    place = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        is_read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        number = errno.EROFS if is_read_only else errno.EACCES
        raise OSError(number, os.strerror(number), str(path))


@contextmanager
def exclusive(folder: Path) -> Iterator[int]:
    """Be the only process that writes into a folder; one that is killed holds nothing.

    Gives the descriptor that the lock is tied to: processes that inherit it hold the folder too.

    Raises:
        SpecError: another process does.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SpecError(
            f"{folder}: another process is writing into it. Wait until it ends, or choose another "
            "`--out`."
        ) from error
    except OSError:
        pass  # a file system without locks
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def in_words(error: OSError) -> str:
    """What went wrong with which file, in one sentence; a full disk by its name.

    Example:
        >>> in_words(OSError(errno.EDQUOT, "Quota exceeded", "a/b"))
        'OSError: a/b: the disk is full (Quota exceeded). Make room and repeat the command.'
    """
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error)
    if error.errno in _FULL:
        what = f"the disk is full ({what}). Make room and repeat the command."
    elif error.errno in _NO_PLACE:
        what = f"nothing can be written there ({what}). Choose another place."
    return f"{type(error).__name__}: {where}{what}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of a disk that cannot be written name `path`, whoever raises them, and how."""
    try:
        yield
    except OSError as error:
        where = error.filename
        if where is None and error.errno not in _CANNOT_WRITE:
            raise
        if where is not None and not (isinstance(where, str) and _is_on_its_way(where)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        found = _OS_ERROR.search(str(error))  # as Rust writes it: polars and safetensors
        if found is None or int(found[1]) not in _CANNOT_WRITE:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically; NaN and inf are refused."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """`value` as indented JSON; NaN and inf are refused."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_on_its_way(path: str) -> bool:
    """Whether a path lies in what has its name only for the time being."""
    return any(is_leftover(part) for part in Path(path).parts)


def _require_written(temporary: Path, path: Path) -> None:
    about = temporary.stat()
    if about.st_size == 0 and about.st_mtime_ns == _UNTOUCHED_NS:
        raise FileNotFoundError(errno.ENOENT, "nothing was written", str(path))


def _require_room(file: Path) -> None:
    """Raise an OSError where a file cannot grow."""
    if file.exists():
        with file.open("ab", buffering=0) as end:
            end.write(bytes(8192))
            os.fsync(end.fileno())


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def _held(path: Path, flags: int) -> Iterator[None]:
    """Lock a file or folder as long as this process writes it: a killed one holds no lock."""
    descriptor = os.open(path, flags, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_abandoned(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; false where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    done: int = rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return done == 0


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
