"""``tsstream run --reload``: a change starts the application anew, a mistake waits for the next."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import (
    ANYWHERE,
    TIMEOUT,
    get,
    read_address,
    read_log_until,
    read_pid,
    read_rest,
    run_failing,
    running,
    start_response,
    write_application,
)

from tsstream._cli import main

RELOAD = (*ANYWHERE, "--reload")
AT_ONCE = 2.0  # seconds, on a busy machine; left to itself, watchfiles looks up every 5 s


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_application(tmp_path)
    return tmp_path


def change(directory: Path, old: str, new: str) -> None:
    """Change the application as an editor does: with a new file, renamed."""
    text = (directory / "cliapp.py").read_text()
    (directory / "new").write_text(text.replace(old, new))
    (directory / "new").rename(directory / "cliapp.py")


def stop(process: subprocess.Popen[str]) -> None:
    """Press Ctrl-C: it must end soon, and well."""
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 0
    assert time.monotonic() - start < AT_ONCE


def test_a_change_starts_the_application_anew_on_the_same_address(directory: Path) -> None:
    with running(directory, "cliapp:app", *RELOAD) as process:
        old = read_pid(process, "startup")
        address = read_address(process)
        assert get(address).endswith(b"last\r\n0\r\n\r\n")
        change(directory, "last", "changed")
        read_log_until(process, "changed: cliapp.py; starting anew")
        assert read_pid(process, "shutdown") == old
        assert get(address).endswith(b"changed\r\n0\r\n\r\n")  # it has waited for the new one
        new = read_pid(process, "startup")
        assert new != old
        stop(process)
        assert read_rest(process) == f"shutdown {new}\n"  # and no second "Running on"


def test_an_open_response_delays_nothing(directory: Path) -> None:
    with running(directory, "cliapp:app", *RELOAD) as process:
        old = read_pid(process, "startup")
        with start_response(read_address(process), "/wait"):
            change(directory, "last", "changed")
            start = time.monotonic()
            assert read_pid(process, "shutdown") == old
            assert time.monotonic() - start < AT_ONCE
            read_pid(process, "startup")


def test_new_code_that_is_broken_waits_for_the_next_change(directory: Path) -> None:
    with running(directory, "cliapp:app", *RELOAD) as process:
        read_pid(process, "startup")
        address = read_address(process)
        change(directory, "number = 4", "number =")
        error = read_log_until(process, "starts anew when a file changes")
        assert "SyntaxError: invalid syntax" in error
        assert 'cliapp.py", line' in error
        change(directory, "number =", "number = 5")
        read_pid(process, "shutdown")
        read_pid(process, "startup")
        assert get(address).endswith(b"last\r\n0\r\n\r\n")


def test_code_that_is_broken_from_the_start_waits_for_a_change(directory: Path) -> None:
    change(directory, "number = 4", "number =")
    with running(directory, "cliapp:app", *RELOAD) as process:
        read_log_until(process, "starts anew when a file changes")
        change(directory, "number =", "number = 5")
        read_pid(process, "startup")
        read_address(process)


def test_ctrl_c_ends_it_while_it_waits_for_a_change(directory: Path) -> None:
    with running(directory, "cliapp_broken:app", *RELOAD) as process:
        read_log_until(process, "starts anew when a file changes")
        stop(process)


def test_a_worker_that_dies_waits_for_a_change(directory: Path) -> None:
    with running(directory, "cliapp:app", *RELOAD) as process:
        read_pid(process, "startup")
        address = read_address(process)
        get(address, "/die")
        assert "ended with exit code 7" in read_log_until(process, "when a file changes")
        change(directory, "last", "changed")
        read_pid(process, "startup")
        assert get(address).endswith(b"changed\r\n0\r\n\r\n")


def test_only_python_files_count(directory: Path) -> None:
    with running(directory, "cliapp:app", *RELOAD) as process:
        old = read_pid(process, "startup")
        read_address(process)
        (directory / "notes.txt").write_text("not Python")
        (directory / "below").mkdir()
        time.sleep(0.2)  # or both changes would be one
        (directory / "below" / "module.py").write_text("number = 6\n")
        log = read_log_until(process, "starting anew")
        assert "notes.txt" not in log
        assert "changed: below/module.py; starting anew" in log
        assert read_pid(process, "shutdown") == old


def test_a_debugger_can_read_from_the_terminal(directory: Path) -> None:
    change(directory, "import os\n", "import os\nprint('startup', int(input()))\n")
    with running(directory, "cliapp:app", *RELOAD) as process:
        assert process.stdin is not None
        process.stdin.write("17\n")
        process.stdin.flush()
        assert read_pid(process, "startup") == 17


def test_a_mistake_in_the_command_ends_it(directory: Path) -> None:
    message = run_failing(directory, "run", "no_such_module:app", *RELOAD)
    assert message == (
        "tsstream: there is no module 'no_such_module' here or among what is installed\n"
    )


def test_what_must_be_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)  # as if it were not
    assert main(["run", "module:app", "--reload"]) == 2
    assert capsys.readouterr().err == (
        "tsstream: --reload needs watchfiles; install tsstream[reload]\n"
    )
