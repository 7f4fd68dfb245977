"""Tar archives, unpacked while they arrive: all of what is in them, or nothing."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import attrs
import trio

from tsstream._errors import HTTPError
from tsstream._sansio.tarheader import Member

from .rules import fault_of_name, logger, warn_left_out, why_left_out
from .staging import Staging, Write
from .swap import Replacement, open_replacement
from .tar_reader import TarReader
from .unpack import unpack

FREE_SHARE = 0.9  # of the free disk: what may be unpacked; the rest is for all others
PROGRESS_SIZE = 1024 * 1024  # bytes: what of a large member is unpacked between two reports
# What no archive of ours has. Who removes a tree goes down one call for each level.
MAX_NAME, MAX_DEPTH = 4000, 200  # characters; components
MAX_WARNINGS = 1000  # for one archive: the log is not to be filled by who sends it

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@attrs.frozen(kw_only=True)
class ExtractLimits:
    """What an archive may unpack to; more is answered with 413.

    Attributes:
      max_members: what is left out counts, too.
      max_size: in bytes; of all members together, with holes and extended headers. ``None`` is
        nine tenths of the free disk.
      max_member: in bytes; of one. ``None`` is the same.
    """

    max_members: int = 1_000_000
    max_size: int | None = None
    max_member: int | None = None


@attrs.frozen
class Extracted:
    """How far the unpacking has come.

    Attributes:
      members: how many files and directories.
      size: in bytes; of the files.
      skipped: how many members were left out.
      name: of the last member; ``None`` before the first.
    """

    members: int = 0
    size: int = 0
    skipped: int = 0
    name: str | None = None


def extract_tar(
    file: IO[bytes],
    destination: str | os.PathLike[str],
    *,
    required: Sequence[str] | Sequence[Sequence[str]] = (),
    limits: ExtractLimits = ExtractLimits(),
    progress: Callable[[Extracted], object] | None = None,
    sync: Callable[[], object] = os.sync,
) -> Extracted:
    """Unpack the tar archive in *file* into *destination*: all of it, or nothing.

    It blocks, so run it in a thread, which may read what is still being uploaded::

        await run_thread_consumer(partial(extract_tar, destination=home), part.body)

    The archive may be compressed: gzip, bzip2 and xz are known by their first bytes, and with
    ``tsstream[zstd]`` zstd is. It is read once, in order and to its end, with little memory, into a
    directory of its own in *destination*. Only if it is whole, its checksums are right and it has
    its end, what is at its top takes the place of what has the same names in *destination*, by
    renaming: a tree is replaced and not merged. If anything fails before, or the caller is
    cancelled, nothing has changed (BK-37).

    Files and directories are unpacked, with their times and permissions; the owner can always
    read and write. Sparse files keep their holes. Left out, with a warning, are links, devices,
    FIFOs, and names that lead upwards, are absolute or too long (BK-19, BK-34). Of two members of
    one name the last is taken. ``./`` and doubled slashes in names are dropped, unless something is
    *required*.

    Args:
      file: open for reading; it need not seek.
      destination: a directory that exists.
      required: names of directories that have to be at the top of the archive; nothing else of it
        is taken. Or several sequences of such names, of which the first that is there as a whole
        is taken.
      limits: of what it may unpack to.
      progress: called in the thread after each member, and after each MiB of a large one.
      sync: called before anything is replaced; returns when what was written is on the disk.

    Raises:
      HTTPError: 400, this is no tar archive, or it is cut, damaged or lacks what is required;
        413, it exceeds the *limits*; 507, the disk is full.
      OSError: *destination* cannot be written to.
      ValueError: a name in *required* is none of a directory at the top.
      whatever *file* or *progress* raises, as itself.
    """
    choices = _to_choices(required)
    with _translating(), open_replacement(destination) as replacement:
        extraction = Extraction(
            known=frozenset().union(*choices),
            limits=_resolve(limits, destination),
            progress=progress,
        )
        extraction.run(file, replacement.new)
        names = _choose(choices, replacement)
        sync()
        _check_cancelled()
        replacement.swap(names)
    return extraction.state


class Extraction:
    """The unpacking of one archive into an open directory.

    Args:
      known: names at the top; what is not below one of them is left out, unless there are none.
      limits: without ``None`` in them.
      progress: called with the state.
      write: as :func:`os.write`.
    """

    def __init__(
        self,
        *,
        known: frozenset[str],
        limits: ExtractLimits,
        progress: Callable[[Extracted], object] | None = None,
        write: Write = os.write,
    ) -> None:
        self._known = known
        self._limits = limits
        self._progress = progress
        self._write = write
        self._members = self._size = self._skipped = self._read = 0
        self._name: str | None = None

    @property
    def state(self) -> Extracted:
        """Say how far it has come."""
        return Extracted(self._members, self._size, self._skipped, self._name)

    def run(self, file: IO[bytes], directory: int) -> None:
        """Unpack all of *file* into the open *directory*.

        Raises:
          HTTPError: 413.
          OSError: a file cannot be written.
          tarfile.ReadError: as :class:`TarReader` does.
        """
        reader = TarReader(unpack(file))
        staging = Staging(directory, write=self._write)
        try:
            for member in reader:
                self._check_limits(member)
                self._add(member, reader, staging)
        finally:
            staging.close()
        if self._skipped > MAX_WARNINGS:
            logger.warning("in all %d members were left out", self._skipped)

    def _check_limits(self, member: Member) -> None:
        self._name = member.name[:MAX_NAME]
        self._read += member.unpacked + member.extra
        limits = self._limits
        if self._members + self._skipped >= limits.max_members:
            raise HTTPError(413, f"The archive has more than {limits.max_members} members.")
        for limit, size in ((limits.max_member, member.unpacked), (limits.max_size, self._read)):
            if limit is not None and size > limit:
                raise HTTPError(413, f"The archive unpacks to more than {limit} bytes.")

    def _add(self, member: Member, reader: TarReader, staging: Staging) -> None:
        name = member.name if self._known else _simplify(member.name)
        if reason := self._why_left_out(member, name):
            self._skipped += 1
            if self._skipped <= MAX_WARNINGS:
                warn_left_out(member.name[:MAX_NAME], reason)
        elif stat.S_ISDIR(member.mode):
            if name != ".":
                staging.add_directory(name.split("/"), member.mode, member.mtime)
            self._members += 1
        else:
            data = self._report_each(reader.read_data())
            staging.add_file(name.split("/"), member.mode, member.mtime, data)
            self._members += 1
        if self._progress is not None:
            self._progress(self.state)

    def _why_left_out(self, member: Member, name: str) -> str | None:
        if reason := member.odd or why_left_out(member.mode):
            return reason
        top, slash, _ = name.partition("/")
        if self._known and top not in self._known:
            return "it is in none of the required directories"
        if self._known and not slash and not stat.S_ISDIR(member.mode):
            return "a directory is required in its place"
        if len(name) > MAX_NAME or name.count("/") >= MAX_DEPTH:
            return "its name is too long"
        return None if name == "." and stat.S_ISDIR(member.mode) else fault_of_name(name)

    def _report_each(self, pieces: Iterator[memoryview | int]) -> Iterator[memoryview | int]:
        since = 0
        for piece in pieces:
            if since >= PROGRESS_SIZE and self._progress is not None:
                self._progress(self.state)
                since = 0
            size = piece if isinstance(piece, int) else len(piece)
            since += size
            self._size += size
            yield piece


def _simplify(name: str) -> str:
    """Drop what leads nowhere, as ``tar -c ./.`` and ``tar -c tree//a`` have it in their names."""
    if name.startswith("/"):
        return name
    return "/".join(part for part in name.split("/") if part not in ("", ".")) or name[:1]


def _to_choices(required: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    if isinstance(required, str):
        raise TypeError(f"required is a sequence of names, not {required!r}; put it in a tuple")
    names = [name for name in required if isinstance(name, str)]
    choices = [names] if names else [list(choice) for choice in required]
    for name in (name for choice in choices for name in choice):
        if fault_of_name(name) or "/" in name:
            raise ValueError(f"{name!r} in required is no name of a directory at the top")
    return choices


def _resolve(limits: ExtractLimits, destination: str | os.PathLike[str]) -> ExtractLimits:
    disk = os.statvfs(destination)
    free = int(disk.f_bavail * disk.f_frsize * FREE_SHARE)
    return attrs.evolve(
        limits,
        max_size=free if limits.max_size is None else limits.max_size,
        max_member=free if limits.max_member is None else limits.max_member,
    )


def _choose(choices: Iterable[Sequence[str]], replacement: Replacement) -> Sequence[str]:
    """Choose what is taken of the names that were made."""
    made = replacement.names()
    choices = list(choices) or [sorted(made)]
    for choice in choices:
        if made.issuperset(choice):
            for name in sorted(made.difference(choice)):
                warn_left_out(name, "with others it is there as a whole")
            return choice
    wanted = " or ".join(" and ".join(map(repr, choice)) for choice in choices)
    raise HTTPError(400, f"The archive lacks {wanted}.")


def _check_cancelled() -> None:
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:
        return  # a thread of others


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise HTTPError(400, f"This is no whole tar archive: {error}.") from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise HTTPError(507, "The disk is full.") from error
