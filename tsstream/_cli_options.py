"""What ``tsstream run`` was told: its options, and the configuration that they amount to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from tsstream._cli_app import Mistake
from tsstream._server.config import Config, check_tls, load_config

RELOAD_TIMEOUT = 0.5  # seconds: graceful_timeout under --reload, unless anybody has given one


@attrs.frozen(kw_only=True)
class Options:
    """The options of ``tsstream run``; a plain value, since workers are sent it.

    ``None`` is what was not given: *config_file* or, failing that, Hypercorn or ``serve()`` decide.

    Attributes:
      limits: keyword arguments of ``serve()``, those that were given.
    """

    app: str
    config_file: str | None = None
    bind: Sequence[str] | None = None
    certfile: str | None = None
    keyfile: str | None = None
    graceful_timeout: float | None = None
    access_log: bool = False
    workers: int | None = None
    reload: bool = False
    limits: Mapping[str, Any] = attrs.field(factory=dict)


def make_config(options: Options) -> Config:
    """Read the configuration file, and put the options over it.

    Raises:
      Mistake: it cannot be read, or is wrong; or a TLS file is.
    """
    try:
        config = Config() if options.config_file is None else load_config(options.config_file)
        for name in ("bind", "certfile", "keyfile", "graceful_timeout"):
            if (value := getattr(options, name)) is not None:
                setattr(config, name, value)
        check_tls(config)
        if config.loglevel.upper() not in logging.getLevelNamesMapping():
            raise ValueError(f"there is no loglevel {config.loglevel!r}")
    except OSError as error:
        raise Mistake(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise Mistake(error) from error
    if options.reload and "graceful_timeout" not in vars(config):
        config.graceful_timeout = max(RELOAD_TIMEOUT, options.limits.get("farewell_spread", 0.0))
    if options.access_log and config.accesslog is None:
        config.accesslog = "-"  # standard output
    if config.errorlog == "-":
        # Hypercorn would put a handler of its own on this logger, besides that of set_up_logging().
        config.errorlog = logging.getLogger("hypercorn.error")
    return config


def worker_count(options: Options, config: Config) -> int | None:
    """Say how many workers shall serve; ``None``: this process itself does."""
    if options.workers is None and config.workers > 1:
        return config.workers  # 1 is Hypercorn's default, and so says nothing
    return options.workers


def set_up_logging(config: Config, origin: str = "") -> None:
    """Log to standard error what is worth it.

    Args:
      config: its ``loglevel`` is what is worth it.
      origin: goes into each line, in logging's own format.
    """
    logging.basicConfig(
        level=config.loglevel.upper(),
        format=f"%(asctime)s {origin}%(levelname)s %(name)s: %(message)s",
    )
    # Hypercorn's own "Running on" would be the second.
    logging.getLogger("hypercorn.error").setLevel(logging.WARNING)
