"""What a member of an archive may be: one rule for those who write and those who read."""

from __future__ import annotations

import logging
import os
import stat

logger = logging.getLogger("tsstream")

MAX_COMPONENT = 255  # bytes: NAME_MAX of every file system in use; PAX itself has no limit

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def why_left_out(mode: int) -> str | None:
    """Say what stands in the way of a member of this *mode*; None for files and directories.

    What is neither could block whoever opens it for ever, or lead out of the tree (BK-19).
    """
    kind = stat.S_IFMT(mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        return None
    return f"it is {_KINDS.get(kind, 'neither a file nor a directory')}"


def fault_of_name(name: str) -> str | None:
    """Say why no member may have this *name*; None for a good one, which may have several parts.

    A directory's name comes here without the slash at its end.
    """
    if not name:
        return "it is empty"
    if "\0" in name:
        return "it contains a NUL"
    if name.startswith("/"):
        return "it is absolute"
    parts = name.split("/")
    if ".." in parts:
        return "it leads upwards"
    if "" in parts or "." in parts:
        return "one of its components is empty or '.'"
    try:
        longest = max(len(os.fsencode(part)) for part in parts)
    except UnicodeEncodeError:
        return "it is no name on this system"
    if longest > MAX_COMPONENT:
        return f"one of its components is longer than {MAX_COMPONENT} bytes"
    return None


def warn_left_out(name: str, reason: str) -> None:
    """Log that the member *name* is left out; every one is named (BK-19)."""
    logger.warning("left out of the archive: %r, because %s", name, reason)
