"""The configuration file and the TLS files of the command: what is read, what is refused, how."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from tsstream._cli import main
from tsstream._cli_options import RELOAD_TIMEOUT, Options, make_config, worker_count
from tsstream._server.config import Config, load_config


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hypercorn.toml", 'bind = "127.0.0.1:1"\nkeep_alive_timeout = 7\nroot_path = "/below"\n'),
        ("other", 'bind = ["127.0.0.1:1"]\nkeep_alive_timeout = 7.0\nroot_path = "/below"\n'),
        ("a.json", '{"bind": "127.0.0.1:1", "keep_alive_timeout": 7, "root_path": "/below"}'),
        ("a.py", 'import os\nbind = "127.0.0.1:1"\nkeep_alive_timeout = 6 + 1\nroot_path="/below"'),
    ],
)
def test_a_file_is_read_as_what_its_name_says(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    config = load_config(str(tmp_path / name))
    assert (config.bind, config.keep_alive_timeout, config.root_path) == (
        ["127.0.0.1:1"],
        7,
        "/below",
    )


def test_the_prefixes_of_hypercorns_command_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cliconfig.py").write_text("backlog = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_config(f"file:{tmp_path / 'cliconfig.py'}").backlog == 7
    assert load_config("python:cliconfig").backlog == 7


def test_what_is_for_hypercorns_command_only_is_let_pass(tmp_path: Path) -> None:
    path = tmp_path / "hypercorn.toml"
    path.write_text('application_path = "a:b"\nworker_class = "trio"\nuse_reloader = true\n')
    config = make_config(Options(app="m", config_file=str(path)))
    assert worker_count(Options(app="m"), config) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "bindd = 1", "Hypercorn has no setting 'bindd'"),
        ("a.toml", "from_toml = 1", "Hypercorn has no setting 'from_toml'"),
        ("a.toml", "_bind = 1", "Hypercorn has no setting '_bind'"),
        ("a.toml", "bind = 8000", "bind is a list of strings, not 8000"),
        ("a.toml", 'workers = "4"', "workers is a whole number from 0 up, not '4'"),
        ("a.toml", "backlog = true", "backlog is a whole number from 0 up, not True"),
        ("a.toml", "ciphers = 1", "ciphers is a string, not 1"),
        ("a.toml", 'debug = "yes"', "debug is true or false, not 'yes'"),
        ("a.toml", "bind =", "Invalid value (at end of document)"),
        ("a.json", "[1]", "not a table of settings"),
        ("a.json", "{", "Expecting property name"),
        ("a.py", "1 / 0", "ZeroDivisionError: division by zero"),
        ("a.py", "a b", "SyntaxError: invalid syntax"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert main(["run", "module:app", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tsstream: {path}: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["missing.toml", "missing.json", "missing.py"])
def test_a_file_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / name
    assert main(["run", "module:app", "--config", str(path)]) == 2
    assert capsys.readouterr().err == f"tsstream: cannot read {path}: No such file or directory\n"


def test_a_python_module_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "module:app", "--config", "python:no_such_config"]) == 2
    assert "no_such_config" in capsys.readouterr().err


def test_a_log_level_that_is_none_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hypercorn.toml"
    path.write_text('loglevel = "loud"\n')
    assert main(["run", "module:app", "--config", str(path)]) == 2
    assert "loglevel" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with two certificates, each with its key, and a file that is neither."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    for name in ("one", "two"):
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
        issued.private_key_pem.write_to_path(directory / f"{name}.key")
    (directory / "text").write_text("no certificate\n")
    return directory


@pytest.mark.parametrize(
    ("certfile", "keyfile", "message"),
    [
        ("missing", "one.key", "cannot read {tls}/missing: No such file or directory"),
        ("one.pem", "missing", "cannot read {tls}/missing: No such file or directory"),
        ("one.pem", "two.key", "the key in {tls}/two.key does not fit the certificate in {tls}/"),
        ("text", "one.key", "TLS cannot be set up with certfile = '{tls}/text': "),
        ("one.pem", "text", "TLS cannot be set up with keyfile = '{tls}/text': "),
        (".", "one.key", "cannot read {tls}: Is a directory"),
        ("one.pem", None, "TLS needs both a certfile and a keyfile"),
        (None, "one.key", "TLS needs both a certfile and a keyfile"),
    ],
)
def test_tls_files_that_are_wrong_are_one_line(
    tls: Path,
    capsys: pytest.CaptureFixture[str],
    certfile: str | None,
    keyfile: str | None,
    message: str,
) -> None:
    args = ["run", "module:app"]
    if certfile is not None:
        args += ["--certfile", str(tls / certfile)]
    if keyfile is not None:
        args += ["--keyfile", str(tls / keyfile)]
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("tsstream: " + message.format(tls=tls))
    assert error.count("\n") == 1


def test_tls_files_that_fit_are_taken(tls: Path) -> None:
    config = make_config(
        Options(app="m", certfile=str(tls / "one.pem"), keyfile=str(tls / "one.key"))
    )
    assert config.ssl_enabled


@pytest.mark.parametrize(
    ("options", "configured", "count"),
    [
        (Options(app="m"), 1, None),
        (Options(app="m"), 3, 3),
        (Options(app="m", workers=1), 3, 1),
        (Options(app="m", workers=2), 1, 2),
    ],
)
def test_how_many_workers_there_are(options: Options, configured: int, count: int | None) -> None:
    config = Config()
    config.workers = configured
    assert worker_count(options, config) == count


@pytest.mark.parametrize(
    ("options", "timeout"),
    [
        (Options(app="m", reload=True), RELOAD_TIMEOUT),
        (Options(app="m", reload=True, limits={"farewell_spread": 2.0}), 2.0),
        (Options(app="m", reload=True, graceful_timeout=0.1), 0.1),
        (Options(app="m", reload=True, config_file="a.toml"), 3.0),
        (Options(app="m", reload=True, config_file="a.toml", graceful_timeout=0.1), 0.1),
        (Options(app="m"), Config.graceful_timeout),
    ],
)
def test_reload_shortens_a_graceful_timeout_that_nobody_has_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options, timeout: float
) -> None:
    (tmp_path / "a.toml").write_text("graceful_timeout = 3\n")
    monkeypatch.chdir(tmp_path)
    assert make_config(options).graceful_timeout == timeout


def test_reload_and_workers_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "module:app", "--reload", "--workers", "2"]) == 2
    assert capsys.readouterr().err.endswith("; leave --workers out\n")
