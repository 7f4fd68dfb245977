"""Listening sockets: from an address to sockets that are ready to accept."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import trio
from hypercorn.config import Config


async def listen(addresses: Sequence[str], config: Config, stack: ExitStack) -> list[socket.socket]:
    """Listen on *addresses*: with one socket for each, or one for each IP of a host name.

    *stack* closes the sockets, those of a call that fails included, and removes the files of Unix
    sockets, unless another server has replaced them.

    Raises:
      OSError: this cannot be done; the message names the address.
      ValueError: an address is written wrongly; the message says how to write it.
    """
    await trio.lowlevel.checkpoint()
    sockets: list[socket.socket] = []
    for address in addresses:
        try:
            if address.startswith("unix:"):
                opened = [_open_unix(address.removeprefix("unix:"), config, stack)]
            elif address.startswith("fd://"):
                fileno = _number(address.removeprefix("fd://"), address)
                opened = [stack.enter_context(socket.socket(fileno=fileno))]
            else:
                opened = await _open_tcp(*_host_and_port(address), stack)
            for sock in opened:
                sock.listen(config.backlog)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot listen on {address}: {error.strerror or error}"
            ) from error
        sockets += opened
    return sockets


async def _open_tcp(host: str, port: int, stack: ExitStack) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    unusable: OSError | None = None
    found = await trio.socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, _, _, _, sockaddr in dict.fromkeys(found):
        try:
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(sockaddr)
            sockets.append(sock)
        except OSError as error:
            # "localhost" often has an IPv6 address on machines that have no IPv6.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            unusable = error
    if not sockets and unusable is not None:
        raise unusable
    return sockets


def _open_unix(path: str, config: Config, stack: ExitStack) -> socket.socket:
    if not path:
        raise ValueError(_advice("unix:"))  # Linux would choose an abstract name
    _remove_stale_socket(path)
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    sock.bind(path)
    path = os.path.abspath(path)  # the application may change the directory
    stack.callback(_remove_own_socket, path, _identity(path))
    # Nobody can connect before listen(), so this is not too late.
    if config.umask is not None:
        os.chmod(path, 0o777 & ~config.umask)
    if config.user is not None and config.group is not None:
        os.chown(path, config.user, config.group)
    return sock


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove_own_socket(path: str, identity: tuple[int, int]) -> None:
    """Remove a socket file of ours; our socket is still open, or its inode could be reused."""
    with suppress(OSError):
        if _identity(path) == identity:
            os.remove(path)


def _remove_stale_socket(path: str) -> None:
    """Remove the socket file of a server that is gone; one that is alive stays, and is an error."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.connect(path)
    except ConnectionRefusedError:
        os.remove(path)
    except (FileNotFoundError, BlockingIOError):
        pass


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(_advice(address))
    return host.removeprefix("[").removesuffix("]"), _number(port, address)


def _number(text: str, address: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise ValueError(_advice(address))
    return int(text)


def _advice(address: str) -> str:
    return (
        f"{address!r} is not an address to listen on; write HOST:PORT (127.0.0.1:8000, [::1]:8000; "
        "port 0 takes a free one), unix:PATH or fd://NUMBER"
    )
