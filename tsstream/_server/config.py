"""Hypercorn's configuration: read from a file, and checked before anything is started."""

from __future__ import annotations

import copy
import json
import os
import ssl
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, cast

from hypercorn.config import Config

from tsstream._server.settings import WrongSettingError, checked

__all__ = ["Config", "check_tls", "keep_loggers", "load_config"]


def load_config(path: str) -> Config:
    """Read the configuration file *path*.

    It is Python if it ends in ``.py``, JSON if in ``.json``, and else TOML. As in Hypercorn's own
    command, ``file:PATH`` is Python too, and ``python:MODULE`` is an importable module.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not such a file, or has a setting that Hypercorn does not know, or one of a
        wrong kind.
    """
    try:
        if path.startswith("python:"):
            return _run_python(_PythonConfig.from_object, path.removeprefix("python:"))
        if path.startswith("file:") or path.endswith(".py"):
            return _run_python(_PythonConfig.from_pyfile, path.removeprefix("file:"))
        settings = _read_table(path, json.load if path.endswith(".json") else tomllib.load)
        return Config.from_mapping(checked(settings))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class _PythonConfig(Config):
    """Made of the names of a module, of which some are settings."""

    @classmethod
    def from_mapping(
        cls: type[Config], mapping: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Config:
        return Config.from_mapping(checked({**(mapping or {}), **kwargs}, others=True))


def _run_python(load: Callable[[str], Config], source: str) -> Config:
    try:
        return load(source)
    except (OSError, WrongSettingError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read_table(path: str, load: Callable[[Any], object]) -> dict[str, Any]:
    with open(path, "rb") as file:
        table = load(file)
    if not isinstance(table, dict):
        raise ValueError("not a table of settings")
    return table


def keep_loggers(config: Config) -> None:
    """Have the ``logconfig`` of *config* disable no logger, unless it says so itself.

    By default ``logging.config.dictConfig()`` disables all that exist, and those of the application
    and of the server exist by then: no error would ever be seen again.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not such a file.
    """
    kind, _, path = (config.logconfig or "").partition(":")
    load = {"json": json.load, "toml": tomllib.load}.get(kind)
    try:
        if load is not None:
            config.logconfig_dict = _read_table(path, load)
            config.logconfig = None
        elif config.logconfig is not None:
            open(config.logconfig, "rb").close()  # logging would say KeyError: 'formatters'
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror}"
        raise OSError(error.errno, message) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if config.logconfig_dict is not None:
        config.logconfig_dict = {"disable_existing_loggers": False, **config.logconfig_dict}


def check_tls(config: Config) -> ssl.SSLContext | None:
    """Make the TLS context of *config*; ``None`` if it has no certificate.

    Raises:
      OSError: one of the files cannot be read; the error has its name.
      ValueError: they do not belong together, or are no such files, or one of them is missing; or
        the key is encrypted, and there is no password.
    """
    if config.certfile is None and config.keyfile is None:
        return config.create_ssl_context()
    if config.certfile is None or config.keyfile is None:
        # Hypercorn would serve without encryption.
        raise ValueError("TLS needs both a certfile and a keyfile")
    for path in (config.certfile, config.keyfile, config.ca_certs):
        if path is not None:
            # The error of the ssl module has no file name. A number would be a file descriptor.
            open(os.fspath(path), "rb").close()
    try:
        return _asking_nobody(config).create_ssl_context()
    except ssl.SSLError as error:
        raise ValueError(_tls_mistake(config) or f"TLS cannot be set up: {error}") from error


def _asking_nobody(config: Config) -> Config:
    """Keep OpenSSL from asking for the password of a key on the terminal."""

    def refuse() -> NoReturn:
        raise ValueError(f"the key in {config.keyfile} is encrypted; set keyfile_password")

    if config.keyfile_password is None:
        config = copy.copy(config)
        config.keyfile_password = cast(Any, refuse)  # the ssl module takes it, too
    return config


def _tls_mistake(config: Config) -> str | None:
    """Find the setting because of which there is no TLS, by trying one after the other."""
    certfile, keyfile = str(config.certfile), config.keyfile
    password = config.keyfile_password or ""  # with None OpenSSL would ask for it
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    steps: dict[str, Callable[[], object]] = {
        "ciphers": partial(context.set_ciphers, config.ciphers),
        "certfile": partial(context.load_verify_locations, certfile),
        "keyfile": partial(context.load_cert_chain, certfile, keyfile, password),
        "ca_certs": partial(context.load_verify_locations, config.ca_certs or certfile),
    }
    for name, step in steps.items():
        try:
            step()
        except ssl.SSLError as error:
            reason = getattr(error, "reason", None) or error  # not every SSLError has one
            if reason == "KEY_VALUES_MISMATCH":
                return f"the key in {keyfile} does not fit the certificate in {certfile}"
            return f"TLS cannot be set up with {name} = {getattr(config, name)!r}: {reason}"
    return None
