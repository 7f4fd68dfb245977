"""Hypercorn's configuration: read from a file, and checked before anything is started."""

from __future__ import annotations

import json
import ssl
import tomllib
from collections.abc import Mapping
from typing import Any

from hypercorn.config import Config

__all__ = ["Config", "check_tls", "load_config"]

# What no instance of Config has from the start, or what looks like a method.
UNUSUAL_SETTINGS = {"application_path", "cert_reqs", "logger_class"}
KINDS = ((bool, "true or false"), (int | float, "a number"), (str, "a string"), (list, "a list"))


def load_config(path: str) -> Config:
    """Read the configuration file *path*.

    It is Python if it ends in ``.py``, JSON if in ``.json``, and else TOML. As in Hypercorn's own
    command, ``file:PATH`` is Python too, and ``python:MODULE`` is an importable module.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not such a file, or has a setting that Hypercorn does not know.
    """
    try:
        if path.startswith("python:"):
            return _run_python(path, Config.from_object, path.removeprefix("python:"))
        if path.startswith("file:") or path.endswith(".py"):
            return _run_python(path, Config.from_pyfile, path.removeprefix("file:"))
        with open(path, "rb") as file:
            settings = json.load(file) if path.endswith(".json") else tomllib.load(file)
        return Config.from_mapping(_checked(settings))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _run_python(path: str, load: Any, source: str) -> Config:
    try:
        config: Config = load(source)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return config


def _checked(settings: object) -> Mapping[str, Any]:
    """Refuse what Hypercorn would accept without a word, and then ignore or stumble over."""
    if not isinstance(settings, dict):
        raise ValueError("not a table of settings")
    defaults = Config()
    for name, value in settings.items():
        default = getattr(defaults, name, None)
        known = hasattr(Config, name) and not name.startswith("_") and not callable(default)
        if not known and name not in UNUSUAL_SETTINGS:
            raise ValueError(f"Hypercorn has no setting {name!r}")
        if name.endswith("bind") and isinstance(value, str):
            continue
        for kind, description in KINDS:
            if isinstance(default, kind):
                if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                    raise ValueError(f"{name} is {description}, not {value!r}")
                break
    return settings


def check_tls(config: Config) -> None:
    """Try the certificate and the key of *config*, if it has them.

    Raises:
      OSError: one of the files cannot be read; the error has its name.
      ValueError: they do not belong together, or are no such files, or one of them is missing.
    """
    if config.certfile is None and config.keyfile is None:
        return
    if config.certfile is None or config.keyfile is None:
        # Hypercorn would serve without encryption.
        raise ValueError("TLS needs both a certfile and a keyfile")
    for path in (config.certfile, config.keyfile, config.ca_certs):
        if path is not None:
            open(path, "rb").close()  # the error of the ssl module has no file name
    try:
        config.create_ssl_context()
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"the key in {config.keyfile} does not fit the certificate"
        else:
            message = f"TLS cannot be set up: {error.reason or error}"
        raise ValueError(f"{message} in {config.certfile}") from error
