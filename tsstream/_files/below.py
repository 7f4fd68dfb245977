"""Opening a file to read: one that we name, or one that a stranger names, below a directory."""

from __future__ import annotations

import errno
import os
import stat

from tsstream._errors import HTTPError

from .rules import fault_of_name
from .tree import StrPath

# What is in the place of a file may be a FIFO, for whose writer nobody is to wait.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
# O_PATH, where there is one: a directory may let us through that does not let us list it.
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# What says that there is no such file for us, rather than that something is wrong. ENXIO is a
# socket, ELOOP a symbolic link that is not followed.
_MISSING = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EPERM),
    }
)


def open_file(path: StrPath) -> int:
    """Open a regular file; give its descriptor.

    Raises:
      HTTPError: 404, there is none, or it is no regular file.
      OSError: it cannot be opened.
    """
    try:
        return _regular(os.open(path, _FILE))
    except OSError as error:
        if error.errno in _MISSING and not isinstance(error, PermissionError):
            raise HTTPError(404) from error
        raise


def open_below(root: StrPath, name: str) -> int:
    """Open the regular file that *name*, from outside, is below *root*; give its descriptor.

    Each component is opened in the directory that the one before it is, so no name, no symbolic
    link and no renaming meanwhile leads anywhere else. *root* itself may be a link.

    Raises:
      HTTPError: 404, there is none, or it is no regular file, or not ours to read, or a component
        is a symbolic link, ``..``, ``.`` or empty.
      OSError: *root* cannot be opened, or the system is in trouble.
    """
    if fault_of_name(name):
        raise HTTPError(404)
    directory = os.open(root, _DIRECTORY)
    *parents, last = name.split("/")
    try:
        for parent in parents:
            directory = _descend(directory, parent)
        return _regular(os.open(last, _FILE | os.O_NOFOLLOW, dir_fd=directory))
    except UnicodeEncodeError as error:  # half a surrogate pair, which is in no file's name
        raise HTTPError(404) from error
    except OSError as error:
        if error.errno in _MISSING:
            raise HTTPError(404) from error
        raise
    finally:
        os.close(directory)


def _descend(directory: int, name: str) -> int:
    """Give *name* in *directory*, which is closed."""
    inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    os.close(directory)
    return inner


def _regular(descriptor: int) -> int:
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise HTTPError(404)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
