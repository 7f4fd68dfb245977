"""What an application's ``send()`` raises when there is nobody any more to send to."""

from __future__ import annotations


class ClientGone(ConnectionError):
    """The client has closed the connection, or was dropped. An ``OSError``, as ASGI 2.4 has it."""
