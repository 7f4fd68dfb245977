"""The settings of Hypercorn's Config: which there are, and what can be the value of each."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from enum import IntEnum, IntFlag
from typing import Any

import attrs
from hypercorn.config import Config


@attrs.frozen
class Kind:
    """What a setting can be."""

    description: str
    fits: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    # bool is an int for Python. Nothing is negative, and NaN is not comparable.
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _are_strings(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number from 0 up", lambda value: isinstance(value, int) and _is_number(value))
NUMBER = Kind("a number from 0 up", _is_number)
STRING = Kind("a string", lambda value: isinstance(value, str))
STRINGS = Kind("a list of strings", _are_strings)
ADDRESSES = Kind("a list of strings", lambda value: isinstance(value, str) or _are_strings(value))
LOG = Kind("a string", lambda value: isinstance(value, str | logging.Logger))
TABLE = Kind("a table", lambda value: isinstance(value, dict))
CLASS = Kind("a class", callable)
ANYTHING = Kind("anything", lambda value: True)

# By the type of a setting's default.
OF_DEFAULTS = {bool: FLAG, int: WHOLE, float: NUMBER, str: STRING, list: STRINGS}

# Settings without a default that would tell: most are None.
KINDS = {
    **dict.fromkeys(("bind", "insecure_bind", "quic_bind"), ADDRESSES),
    **dict.fromkeys(("application_path", "root_path", "pid_path", "statsd_host"), STRING),
    **dict.fromkeys(("certfile", "keyfile", "keyfile_password", "ca_certs", "logconfig"), STRING),
    **dict.fromkeys(("max_requests", "umask", "user", "group", "cert_reqs"), WHOLE),
    **dict.fromkeys(("read_timeout", "websocket_ping_interval"), NUMBER),
    **dict.fromkeys(("accesslog", "errorlog"), LOG),
    "logconfig_dict": TABLE,
    "logger_class": CLASS,
}
OPTIONAL = {"errorlog"}  # None is a value of theirs, though not the default
MEMBERS: Mapping[str, type[IntEnum | IntFlag]] = {
    "verify_mode": ssl.VerifyMode,
    "verify_flags": ssl.VerifyFlags,
}


def checked(settings: Mapping[str, Any], *, others: bool = False) -> dict[str, Any]:
    """Refuse what Hypercorn would accept without a word, and then ignore or stumble over.

    Args:
      others: let names pass that Hypercorn does not know.

    Returns:
      the settings, as Hypercorn wants them.

    Raises:
      WrongSettingError: one has a value of a wrong kind, or does not exist.
    """
    return {name: _checked(name, value, others) for name, value in settings.items()}


class WrongSettingError(ValueError):
    """A setting does not exist, or cannot have this value."""


def _checked(name: str, value: Any, others: bool) -> Any:
    kind = _kind(name)
    if kind is None:
        if others:
            return value
        raise WrongSettingError(f"Hypercorn has no setting {name!r}")
    if value is None and (name in OPTIONAL or getattr(Config, name, value) is None):
        return value
    if name in MEMBERS:
        return _member(name, value)
    if not kind.fits(value):
        raise WrongSettingError(f"{name} is {kind.description}, not {value!r}")
    return value


def _kind(name: str) -> Kind | None:
    if name in KINDS:
        return KINDS[name]
    if name.startswith("_") or not hasattr(Config, name):
        return None
    default = getattr(Config, name)
    return ANYTHING if default is None else OF_DEFAULTS.get(type(default))


def _member(name: str, value: object) -> object:
    """Find what a file can only write as a name, or as a number."""
    members = MEMBERS[name]
    try:
        if isinstance(value, str):
            return members[value]
        if isinstance(value, int) and not isinstance(value, bool):
            return members(value)
    except (KeyError, ValueError):
        pass
    names = ", ".join(members.__members__)
    raise WrongSettingError(f"{name} is one of {names}, not {value!r}")
