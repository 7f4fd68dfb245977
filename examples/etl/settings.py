"""What the environment says: AIStore's own variables, and the limits."""

from __future__ import annotations

import math
import os
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from .contract import names_node


def _switch(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "yes", "on")


def _node(text: str) -> str:
    url = text.rstrip("/")
    if not names_node(url):
        raise ValueError(f"{text!r} is not the URL of a node")
    return url


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError(f"there is no file {text!r}")
    return text


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(part) for part in re.split("[:,]", text) if part)


def _at_least(least: float, kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = kind(text)
        if not number >= least:
            raise ValueError(f"at least {least}, not {text}")
        return number

    return parse


def _env(name: str, default: Any = "", parse: Callable[[str], Any] = str) -> Any:
    return attrs.field(default=default, metadata={"name": name, "parse": parse})


@attrs.frozen(kw_only=True)
class Settings:
    """One attribute for each variable of the environment; :meth:`from_env` reads them."""

    target_url: str = _env("AIS_TARGET_URL", parse=_node)
    direct_fqn: bool = _env("ETL_DIRECT_FQN", False, _switch)
    fqn_roots: tuple[Path, ...] = _env("ETL_FQN_ROOTS", (), _paths)  # none: no local objects
    max_transforms: int = _env("MAX_TRANSFORMS", 2 * (os.cpu_count() or 1), _at_least(1, int))
    max_buffered: int = _env("MAX_BUFFERED", 2**30, _at_least(1, int))  # bytes of one read()
    # Seconds. The target has a limit of its own, 45 s, and leaves.
    object_timeout: float = _env("OBJ_TIMEOUT", math.inf, _at_least(0, float))
    put_retries: int = _env("AIS_DIRECT_PUT_RETRIES", 3, _at_least(0, int))
    # To the target: connections in all, how many of them may be idle, and for how many seconds.
    max_connections: int = _env("MAX_CONN", 256, _at_least(1, int))
    max_idle: int = _env("MAX_KEEPALIVE_CONN", 128, _at_least(0, int))
    idle_timeout: float = _env("KEEPALIVE_EXPIRY", 30.0, _at_least(0, float))
    token: str = _env("AIS_AUTHN_TOKEN")
    skip_verify: bool = _env("AIS_SKIP_VERIFY_CRT", False, _switch)
    client_ca: str = _env("AIS_CLIENT_CA", parse=_file)  # who signs the certificates of the nodes
    certificate: str = _env("AIS_CRT", parse=_file)
    certificate_key: str = _env("AIS_CRT_KEY", parse=_file)
    # Errors as text messages, as other ETL servers send them: a target takes them for success.
    legacy_text_errors: bool = _env("LEGACY_TEXT_ERRORS", False, _switch)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment; a variable that is empty counts as not set.

        Raises:
          OSError: ``AIS_TARGET_URL`` is not set.
          ValueError: another one makes no sense; it is named.
        """
        if not env.get("AIS_TARGET_URL"):
            raise OSError("AIS_TARGET_URL is not set; it names the target that objects come from")
        values: dict[str, Any] = {}
        for field in attrs.fields(cls):
            name = field.metadata["name"]
            if text := env.get(name):
                try:
                    values[field.name] = field.metadata["parse"](text)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return cls(**values)

    @property
    def auth_headers(self) -> dict[str, str]:
        """Give what tells a node of AIStore who we are."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def ssl_context(self) -> ssl.SSLContext:
        """Make the context for connections to the target and to other nodes."""
        context = ssl.create_default_context(cafile=self.client_ca or None)
        if self.skip_verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.certificate:
            context.load_cert_chain(self.certificate, self.certificate_key or None)
        return context
