"""The tsstream command in one process: its messages, signals and exit codes."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from commands import (
    ANYWHERE,
    TIMEOUT,
    get,
    read_address,
    read_body,
    read_line,
    read_log_until,
    read_pid,
    run_failing,
    running,
    start_response,
    write_application,
)

import tsstream
from tsstream._cli import main
from tsstream._cli_app import Mistake, load


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_application(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_gracefully_with_exit_code_0(directory: Path, number: int) -> None:
    with running(directory, "cliapp:app", *ANYWHERE) as process:
        assert read_pid(process, "startup") == process.pid
        line = read_line(process)
        assert line.startswith("Running on http://127.0.0.1:")
        address = line.split()[2]
        assert line == f"Running on {address} (Ctrl-C to stop)"
        assert get(address).endswith(b"last\r\n0\r\n\r\n")
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0
        assert read_pid(process, "shutdown") == process.pid


def test_open_responses_are_cut_after_the_graceful_timeout(directory: Path) -> None:
    with running(directory, "cliapp", *ANYWHERE, "--graceful-timeout", "0.1") as process:
        read_pid(process, "startup")
        with start_response(read_address(process), "/wait") as client:
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
            with pytest.raises(ConnectionResetError):
                read_body(client)
        read_pid(process, "shutdown")


def test_a_second_signal_ends_it_at_once(directory: Path) -> None:
    args = ("cliapp:app", *ANYWHERE, "--graceful-timeout", "1000")
    with running(directory, *args) as process:
        read_pid(process, "startup")
        with start_response(read_address(process), "/wait"):
            process.send_signal(signal.SIGINT)
            read_log_until(process, "a second signal")
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == -signal.SIGINT


def test_further_signals_end_it_while_a_handler_blocks_the_loop(directory: Path) -> None:
    with running(directory, "cliapp:app", *ANYWHERE) as process:
        read_pid(process, "startup")
        with start_response(read_address(process), "/block"):
            # Nothing tells that the first has arrived, and until then others would be one with it.
            press_until_over(process)
            assert process.returncode == -signal.SIGINT


def press_until_over(process: subprocess.Popen[str]) -> None:
    """Press Ctrl-C again and again."""
    deadline = time.monotonic() + TIMEOUT
    while process.poll() is None:
        assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


def test_a_signal_while_a_handler_blocks_the_loop_is_not_lost(directory: Path) -> None:
    with running(directory, "cliapp:app", *ANYWHERE) as process:
        read_pid(process, "startup")
        with start_response(read_address(process), "/block") as client:
            process.send_signal(signal.SIGTERM)
            (directory / "finish").touch()
            assert read_body(client).endswith(b"last\r\n0\r\n\r\n")
            assert process.wait(TIMEOUT) == 0


def test_what_a_thread_of_a_handler_holds_up_is_said(directory: Path) -> None:
    with running(directory, "cliapp:app", *ANYWHERE, "--graceful-timeout", "0.1") as process:
        read_pid(process, "startup")
        with start_response(read_address(process), "/thread"):
            process.send_signal(signal.SIGTERM)
            log = read_log_until(process, "WARNING tsstream: not over yet; threads")
            assert "that still run: 1; a second signal ends all" in log
            (directory / "finish").touch()
            assert process.wait(TIMEOUT) == 0
        read_pid(process, "shutdown")


QUIET = """
import sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            print(stage, file=sys.stderr, flush=True)
            await send({"type": f"lifespan.{stage}.complete"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})
"""


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
@pytest.mark.parametrize("closed", ["the output", "the other end of its pipe"])
def test_nobody_need_read_the_addresses(
    directory: Path, closed: str, workers: tuple[str, ...]
) -> None:
    (directory / "quiet.py").write_text(QUIET)
    args = ("quiet:app", "--bind", "unix:socket", *ANYWHERE, *workers)
    reader, writer = os.pipe()
    os.close(reader)
    prefix = ("sh", "-c", 'exec "$@" >&-', "sh") if closed == "the output" else ()
    with running(directory, *args, stdout=writer, prefix=prefix) as process:
        os.close(writer)
        read_log_until(process, "startup")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            client.connect(os.fspath(directory / "socket"))
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert read_body(client).endswith(b"answer\r\n0\r\n\r\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert process.stderr is not None
        assert "Error" not in process.stderr.read()


def test_a_signal_while_the_lifespan_starts_ends_it(directory: Path) -> None:
    with running(directory, "cliapp:slow_start", *ANYWHERE) as process:
        assert read_line(process) == "starting"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert read_line(process) == ""


def test_ctrl_c_while_the_module_is_imported_leaves_no_traceback(directory: Path) -> None:
    (directory / "slow.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(99)"
    )
    with running(directory, "slow:app", *ANYWHERE) as process:
        assert read_line(process) == "importing"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_logging_that_an_application_has_set_up_is_left_alone(directory: Path) -> None:
    (directory / "logs.py").write_text(
        "import logging\nfrom cliapp import app\n"
        "logging.basicConfig(format='mine %(message)s', level=logging.INFO)\n"
    )
    with running(directory, "logs:app", *ANYWHERE) as process:
        read_pid(process, "startup")
        read_address(process)
        process.send_signal(signal.SIGTERM)
        assert "mine stopping: " in read_log_until(process, "stopping")


def test_the_access_log_goes_to_standard_output(directory: Path) -> None:
    with running(directory, "cliapp:app", *ANYWHERE, "--access-log") as process:
        read_pid(process, "startup")
        get(read_address(process), "/logged")
        assert '"GET /logged 1.1" 200' in read_line(process)


def test_a_limit_of_the_command_line_is_that_of_the_server(directory: Path) -> None:
    with running(directory, "cliapp:app", *ANYWHERE, "--max-connections", "1") as process:
        read_pid(process, "startup")
        address = read_address(process)
        with start_response(address, "/wait"), start_response(address, "/") as refused:
            assert read_body(refused).startswith(b"TTP/1.1 503 ")


def test_the_options_override_the_configuration_file(directory: Path) -> None:
    (directory / "hypercorn.toml").write_text(
        'bind = "127.0.0.1:1"\ngraceful_timeout = 7\naccesslog = "-"\napplication_path = "other"\n'
    )
    with running(directory, "cliapp:app", "--config", "hypercorn.toml", *ANYWHERE) as process:
        read_pid(process, "startup")
        get(read_address(process))
        assert '"GET / 1.1" 200' in read_line(process)
        process.send_signal(signal.SIGTERM)
        assert "responses have 7 s" in read_log_until(process, "stopping")
        assert process.wait(TIMEOUT) == 0


def test_the_requests_that_a_configuration_allows_end_it_with_exit_code_0(directory: Path) -> None:
    (directory / "hypercorn.toml").write_text("max_requests = 1\n")
    with running(directory, "cliapp:app", *ANYWHERE, "--config", "hypercorn.toml") as process:
        read_pid(process, "startup")
        address = read_address(process)
        for _ in range(2):  # Hypercorn counts to one more
            get(address)
        assert "INFO tsstream.server: 2 requests" in read_log_until(process, "; the server ends")
        assert process.wait(TIMEOUT) == 0


def test_a_certificate_and_its_key_are_tls(directory: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(directory / "chain.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    tls = ("--certfile", "chain.pem", "--keyfile", "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with running(directory, "cliapp:app", *ANYWHERE, *tls) as process:
        read_pid(process, "startup")
        address = read_address(process)
        assert address.startswith("https://127.0.0.1:")
        port = int(address.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port), TIMEOUT) as client,
            context.wrap_socket(client, server_hostname="127.0.0.1") as encrypted,
        ):
            encrypted.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert read_body(encrypted).endswith(b"last\r\n0\r\n\r\n")


def test_an_address_in_use_is_named(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        message = run_failing(directory, "run", "cliapp:app", "--bind", bind)
    assert message == f"tsstream: cannot listen on {bind}: Address already in use\n"


def test_an_address_that_is_none_is_one_line_that_says_how_to_write_it(directory: Path) -> None:
    message = run_failing(directory, "run", "cliapp:app", "--bind", "8000")
    assert message.startswith("tsstream: '8000' is not an address to listen on; write HOST:PORT")
    assert message.count("\n") == 1


def test_a_missing_module_is_one_line(directory: Path) -> None:
    message = run_failing(directory, "run", "no_such_module:app")
    assert message == (
        "tsstream: there is no module 'no_such_module' here or among what is installed\n"
    )


def test_an_import_error_inside_the_module_keeps_its_traceback(directory: Path) -> None:
    message = run_failing(directory, "run", "cliapp_broken:app")
    assert "No module named 'nowhere_to_be_found'" in message
    assert 'cliapp_broken.py", line 1' in message
    assert message.endswith("tsstream: importing 'cliapp_broken' failed; see the traceback above\n")


def test_a_lifespan_that_fails_to_start_is_exit_code_1(directory: Path) -> None:
    message = run_failing(directory, "run", "cliapp:no_start", *ANYWHERE, code=1)
    assert message == "tsstream: Lifespan failure in startup. 'no database'\n"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        *(("--graceful-timeout", text, "number of seconds") for text in ("x", "-1", "inf", "nan")),
        ("--stall-timeout", "0", "write none for no limit"),
        ("--header-timeout", "soon", "'soon' is not a number of seconds"),
        ("--body-timeout", "-1", "'-1' is not a number of seconds"),
        ("--workers", "0", "'0' is not a number of at least 1"),
        ("--workers", "two", "'two' is not a number of at least 1"),
        ("--max-connections", "-1", "'-1' is not a number of at least 1"),
        ("--no-such-option", "1", "unrecognized arguments"),
    ],
)
def test_an_option_that_is_written_wrongly_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "cliapp:app", f"{option}={value}"])
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert option in output.err
    assert message in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)


def test_the_help_has_examples_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "tsstream run module:app --workers 4" in text
    parameters = inspect.signature(tsstream.serve).parameters
    for name in ("stall_timeout", "header_timeout", "body_timeout", "farewell_spread"):
        _, _, description = text.rpartition(f"--{name.replace('_', '-')} SECONDS")
        assert f"(default: {parameters[name].default:g})" in description.partition("--")[0]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cliapp:nothing", "module 'cliapp' has no 'nothing'"),
        ("cliapp:app.nothing", "module 'cliapp' has no 'app.nothing'"),
        ("cliapp:number", "'number' in module 'cliapp' is of type int"),
        ("cliapp.inner:app", "there is no module 'cliapp.inner'"),
        ("cliapp.py:app", "is not module:app"),
        ("./cliapp:app", "is not module:app"),
        (":app", "is not module:app"),
        (".cliapp:app", "is not module:app"),
    ],
)
def test_load_names_the_mistake(
    directory: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    monkeypatch.syspath_prepend(directory)
    with pytest.raises(Mistake) as caught:
        load(target)
    assert message in str(caught.value)


@pytest.mark.parametrize("target", ["cliapp", "cliapp:app", "cliapp:Inner.app"])
def test_load_gives_the_application(
    directory: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.syspath_prepend(directory)
    assert callable(load(target))
