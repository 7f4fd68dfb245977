"""What tells one state of a file from another, and when nothing does."""

from __future__ import annotations

import os

from tsstream._sansio.tarlayout import Identity

# ns: clocks of file systems tick every 1 to 10 ms, and two changes in one tick leave the same
# ctime. What was changed so lately may change again without a trace ("racy git").
TICK = 20_000_000
TRIES = 3  # looks at what is changing all the time


def to_identity(found: os.stat_result) -> Identity:
    """Give what tells this state of a file from another one."""
    return Identity(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def is_settled(identity: Identity, begun: int, now: int) -> bool:
    """Say whether a later state of a file can be told from this one.

    A ctime in the future is as good as an old one: a change would leave another.

    Args:
      identity: of the file as it was found.
      begun: when it had not been looked at yet, in ns since the epoch.
      now: when it had.
    """
    return not begun - TICK <= identity.ctime_ns <= now + TICK


def has_changed(before: Identity, now: Identity, *, growing: bool) -> bool:
    """Say whether a file is not what it was; if *growing*, it may have got longer (BK-17)."""
    same_file = (before.inode, before.device) == (now.inode, now.device)
    return now != before and not (growing and same_file and now.size > before.size)
