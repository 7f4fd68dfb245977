"""Hypercorn's configuration: the settings of a file, the logging and the TLS that they ask for."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypercorn.config import Config
from leaks import assert_no_leaks

from tsstream._server.config import check_tls, keep_loggers, load_config
from tsstream._server.serve import serve
from tsstream._server.settings import checked


def write(directory: Path, text: str, name: str = "hypercorn.toml") -> str:
    (directory / name).write_text(text)
    return str(directory / name)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('max_requests = "abc"', "max_requests is a whole number from 0 up, not 'abc'"),
        ("max_requests = -1", "max_requests is a whole number from 0 up, not -1"),
        ('umask = "022"', "umask is a whole number from 0 up, not '022'"),
        ("backlog = 1.5", "backlog is a whole number from 0 up, not 1.5"),
        ("graceful_timeout = nan", "graceful_timeout is a number from 0 up, not nan"),
        ("graceful_timeout = -1", "graceful_timeout is a number from 0 up, not -1"),
        ("read_timeout = true", "read_timeout is a number from 0 up, not True"),
        ("certfile = 3", "certfile is a string, not 3"),
        ("keyfile = 4", "keyfile is a string, not 4"),
        ("root_path = 1", "root_path is a string, not 1"),
        ("errorlog = 1", "errorlog is a string, not 1"),
        ("bind = [8000]", "bind is a list of strings, not [8000]"),
        ('server_names = "here"', "server_names is a list of strings, not 'here'"),
        ("logconfig_dict = 3", "logconfig_dict is a table, not 3"),
        ('logger_class = "foo"', "logger_class is a class, not 'foo'"),
        ("log = 1", "Hypercorn has no setting 'log'"),
    ],
)
def test_a_setting_of_a_wrong_kind_is_named(tmp_path: Path, setting: str, message: str) -> None:
    path = write(tmp_path, setting)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        load_config(path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_setting_of_a_wrong_kind_is_named_in_python_too(tmp_path: Path) -> None:
    path = write(tmp_path, "import os\nhelper = max_requests = 'abc'\n", "config.py")
    with pytest.raises(ValueError, match=r"config\.py: max_requests is a whole number"):
        load_config(path)


def test_what_only_python_can_say_is_let_pass(tmp_path: Path) -> None:
    text = (
        "import logging, ssl\nfrom hypercorn.logging import Logger as logger_class\n"
        "accesslog = logging.getLogger('mine')\nbind = ('127.0.0.1:1',)\nerrorlog = None\n"
        "verify_mode = ssl.CERT_REQUIRED\nmax_requests = None\n\ndef helper(): pass\n"
    )
    config = load_config(write(tmp_path, text, "config.py"))
    assert config.accesslog is logging.getLogger("mine")
    assert (list(config.bind), config.verify_mode) == (["127.0.0.1:1"], ssl.CERT_REQUIRED)


def test_every_default_of_hypercorn_is_of_the_right_kind() -> None:
    defaults = {
        name: getattr(Config(), name)
        for name in Config.__dict__
        if not name.startswith("_") and name not in ("log", "cert_reqs", "ssl_enabled")
        if name == "logger_class" or not callable(getattr(Config, name))
    }
    assert len(defaults) > 50
    assert checked(defaults) == defaults


@pytest.mark.parametrize("value", ['"CERT_REQUIRED"', "2"])
def test_verify_mode_is_a_name_or_its_number(tmp_path: Path, value: str) -> None:
    assert load_config(write(tmp_path, f"verify_mode = {value}")).verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("value", ['"required"', "9", "true"])
def test_a_verify_mode_that_is_none_is_told_which_there_are(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"verify_mode = {value}")
    with pytest.raises(ValueError, match="one of CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED, not "):
        load_config(path)


@pytest.fixture
def tls(tmp_path: Path) -> Config:
    """Give a configuration whose files fit; the directory has a file that fits nowhere, too."""
    issued = trustme.CA().issue_cert("localhost")
    config = Config()
    config.certfile, config.keyfile = str(tmp_path / "chain.pem"), str(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(config.certfile)
    issued.private_key_pem.write_to_path(config.keyfile)
    (tmp_path / "text").write_text("no certificate\n")
    return config


def encrypt_key(config: Config, password: bytes) -> None:
    path = Path(str(config.keyfile))
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
    )


def test_ciphers_that_are_none_are_named(tls: Config) -> None:
    tls.ciphers = "nonsense"
    with pytest.raises(ValueError, match="TLS cannot be set up with ciphers = 'nonsense': "):
        check_tls(tls)


def test_an_encrypted_key_without_a_password_is_named_and_nobody_is_asked(tls: Config) -> None:
    encrypt_key(tls, b"right")
    with pytest.raises(ValueError, match=f"the key in {tls.keyfile} is encrypted; set keyfile_pas"):
        check_tls(tls)
    assert tls.keyfile_password is None


def test_an_encrypted_key_with_its_password_is_taken(tls: Config) -> None:
    encrypt_key(tls, b"right")
    tls.keyfile_password = "right"
    assert check_tls(tls) is not None


class CountingConfig(Config):
    contexts = 0

    def create_ssl_context(self) -> ssl.SSLContext | None:
        CountingConfig.contexts += 1
        return super().create_ssl_context()


async def test_a_server_reads_its_certificate_once(tls: Config) -> None:
    config = CountingConfig()
    config.certfile, config.keyfile = tls.certfile, tls.keyfile
    await apply(config)
    assert CountingConfig.contexts == 1


def test_an_encrypted_key_with_a_wrong_password_is_named(tls: Config) -> None:
    encrypt_key(tls, b"right")
    tls.keyfile_password = "wrong"
    with pytest.raises(ValueError, match=f"TLS cannot be set up with keyfile = '{tls.keyfile}': "):
        check_tls(tls)


@pytest.mark.parametrize("name", ["certfile", "keyfile", "ca_certs"])
def test_the_file_that_is_wrong_is_the_one_that_is_named(
    tls: Config, tmp_path: Path, name: str
) -> None:
    setattr(tls, name, str(tmp_path / "text"))
    with pytest.raises(ValueError, match=f"TLS cannot be set up with {name} = '{tmp_path}/text': "):
        check_tls(tls)


def test_a_certificate_that_is_a_number_closes_nobodys_file(tls: Config, tmp_path: Path) -> None:
    with open(tmp_path / "text") as file:
        tls.certfile = file.fileno()  # type: ignore[assignment] # on purpose
        with pytest.raises(TypeError):
            check_tls(tls)
        os.fstat(file.fileno())


@pytest.fixture
def mine() -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.mine")
    yield logger
    logger.disabled = False


DICT = {"version": 1, "loggers": {"tests.config": {"level": "INFO"}}}


async def apply(config: Config) -> None:
    """Have the configuration of logging read and applied, by a server that ends at once."""
    config.errorlog = logging.getLogger("tests.config.errors")
    await serve(
        _no_lifespan, config, bind=["127.0.0.1:0"], shutdown_trigger=trio.lowlevel.checkpoint
    )


async def _no_lifespan(scope: object, receive: object, send: object) -> None:
    await trio.lowlevel.checkpoint()


async def test_a_logconfig_dict_silences_no_logger(mine: logging.Logger) -> None:
    config = Config()
    config.logconfig_dict = dict(DICT)
    await apply(config)
    assert not mine.disabled
    assert not logging.getLogger("tsstream.server").disabled
    assert config.logconfig_dict == DICT  # it is the user's


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json", '{"version": 1, "loggers": {"tests.config": {"level": "INFO"}}}'),
        ("toml", 'version = 1\nloggers."tests.config".level = "INFO"'),
    ],
)
async def test_a_logconfig_file_silences_no_logger(
    tmp_path: Path, mine: logging.Logger, kind: str, text: str
) -> None:
    logging.getLogger("tests.config").setLevel(logging.NOTSET)
    config = Config()
    config.logconfig = f"{kind}:{write(tmp_path, text, 'logs')}"
    await apply(config)
    assert not mine.disabled
    assert logging.getLogger("tests.config").level == logging.INFO


def test_loggers_are_disabled_if_that_is_asked_for() -> None:
    config = Config()
    config.logconfig_dict = {**DICT, "disable_existing_loggers": True}
    keep_loggers(config)
    assert config.logconfig_dict["disable_existing_loggers"] is True


@pytest.mark.parametrize(
    ("logconfig", "error", "message"),
    [
        ("json:{}/missing", OSError, "cannot read {}/missing: No such file or directory"),
        ("json:{}/text", ValueError, "{}/text: "),
        ("toml:{}/text", ValueError, "{}/text: "),
        ("json:{}/list", ValueError, "{}/list: not a table"),
        ("{}/missing", OSError, "cannot read {}/missing: No such file or directory"),
    ],
)
def test_a_logconfig_file_that_is_wrong_is_named(
    tmp_path: Path, logconfig: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "text").write_text("neither one nor the other")
    (tmp_path / "list").write_text("[1]")
    config = Config()
    config.logconfig = logconfig.format(tmp_path)
    with pytest.raises(error, match=message.format(tmp_path)):
        keep_loggers(config)


async def test_the_socket_to_a_statsd_is_closed_in_the_end() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        config = Config()
        config.statsd_host = f"127.0.0.1:{statsd.getsockname()[1]}"
        async with assert_no_leaks():
            await apply(config)
