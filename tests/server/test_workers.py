"""Several workers: real processes for what signals and deaths do, fakes for when they do it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
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
    read_rest,
    run_failing,
    running,
    start_response,
    write_application,
)

from tsstream._server.worker import Worker
from tsstream._server.workers import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MAX_FAILED_STARTS,
    STEADY,
    Supervisor,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_application(tmp_path)
    return tmp_path


ONE = (*ANYWHERE, "--workers", "1")
TWO = (*ANYWHERE, "--workers", "2")


def read_start(process: subprocess.Popen[str], count: int) -> tuple[list[int], str]:
    """Read what *count* workers say when they start; give their pids and the address."""
    pids = [read_pid(process, "startup") for _ in range(count)]
    return pids, read_address(process)


def test_they_share_the_address_and_their_number_is_said(directory: Path) -> None:
    with running(directory, "cliapp:app", *TWO) as process:
        pids = {read_pid(process, "startup") for _ in range(2)}
        assert len(pids - {process.pid}) == 2
        line = read_line(process)
        address = line.split()[2]
        assert line == f"Running on {address} with 2 workers (Ctrl-C to stop)"
        assert get(address).endswith(b"last\r\n0\r\n\r\n")


def test_a_worker_that_dies_is_replaced(directory: Path) -> None:
    with running(directory, "cliapp:app", *TWO) as process:
        pids, address = read_start(process, 2)
        assert not get(address, "/die").endswith(b"0\r\n\r\n")
        assert "ended with exit code 7" in read_log_until(process, "another one starts")
        assert read_pid(process, "startup") not in pids
        assert get(address).endswith(b"last\r\n0\r\n\r\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_master_ends_them_all_gracefully(directory: Path, number: int) -> None:
    with running(directory, "cliapp:app", *TWO) as process:
        pids, address = read_start(process, 2)
        with start_response(address, "/finish") as client:
            process.send_signal(number)
            # One has nothing to do and ends: the other must not be hurried by that.
            ended = [read_pid(process, "shutdown")]
            (directory / "finish").touch()
            assert read_body(client).endswith(b"last\r\n0\r\n\r\n")
        assert process.wait(TIMEOUT) == 0
        ended.append(read_pid(process, "shutdown"))
        assert sorted(ended) == sorted(pids)


def test_new_clients_are_refused_while_the_last_responses_end(directory: Path) -> None:
    with running(directory, "cliapp:app", *TWO, "--graceful-timeout", "1000") as process:
        _, address = read_start(process, 2)
        with start_response(address, "/wait"):
            process.send_signal(signal.SIGTERM)
            read_pid(process, "shutdown")
            server = ("127.0.0.1", int(address.rpartition(":")[2]))
            deadline = time.monotonic() + TIMEOUT
            with pytest.raises(ConnectionRefusedError):
                while time.monotonic() < deadline:
                    with suppress(ConnectionResetError):  # who comes in the very moment
                        socket.create_connection(server, TIMEOUT).close()
        assert process.poll() is None


def test_each_has_the_graceful_timeout(directory: Path) -> None:
    with running(directory, "cliapp:app", *TWO, "--graceful-timeout", "0.2") as process:
        _, address = read_start(process, 2)
        with start_response(address, "/wait") as client:
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionResetError):
                read_body(client)
        assert process.wait(TIMEOUT) == 0
        assert read_rest(process).count("shutdown") == 2


def test_one_that_hangs_is_killed_in_the_end(directory: Path) -> None:
    (directory / "hypercorn.toml").write_text("graceful_timeout = 0.1\nshutdown_timeout = 0.1\n")
    with running(directory, "cliapp:app", *ONE, "--config", "hypercorn.toml") as process:
        _, address = read_start(process, 1)
        with start_response(address, "/block"):
            process.send_signal(signal.SIGTERM)
            assert "has not stopped within 2.2 s" in read_log_until(process, "is killed")
            assert process.wait(TIMEOUT) == 1


def test_a_second_signal_ends_all_at_once(directory: Path) -> None:
    with running(directory, "cliapp:app", *TWO, "--graceful-timeout", "1000") as process:
        _, address = read_start(process, 2)
        with start_response(address, "/wait"), start_response(address, "/wait"):
            process.send_signal(signal.SIGINT)
            read_log_until(process, "a second signal")
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == -signal.SIGINT
            read_rest(process)  # ends with the last worker


def test_a_second_signal_ends_all_while_a_handler_blocks_a_worker(directory: Path) -> None:
    with running(directory, "cliapp:app", *ONE) as process:
        _, address = read_start(process, 1)
        with start_response(address, "/block"):
            process.send_signal(signal.SIGINT)
            read_log_until(process, "a second signal")
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == -signal.SIGINT
            read_rest(process)  # ends with the worker


def test_a_terminal_that_closes_leaves_no_warning(directory: Path) -> None:
    with running(directory, "cliapp:app", *ONE, start_new_session=True) as process:
        read_start(process, 1)
        os.killpg(process.pid, signal.SIGHUP)
        read_log_until(process, "have been replaced")
        process.send_signal(signal.SIGHUP)  # Python looks after its resource tracker at each start
        assert "resource_tracker" not in read_log_until(process, "have been replaced")


def test_they_do_not_outlive_a_killed_master_even_when_they_are_busy(directory: Path) -> None:
    with running(directory, "cliapp:app", *TWO) as process:
        _, address = read_start(process, 2)
        with start_response(address, "/block"):
            process.kill()
            read_rest(process)
        with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
            pass  # the address is free again


def test_a_sigterm_to_a_worker_ends_it_gracefully_and_it_is_replaced(directory: Path) -> None:
    with running(directory, "cliapp:app", *ONE) as process:
        [pid], address = read_start(process, 1)
        with start_response(address, "/finish") as client:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGTERM)
            (directory / "finish").touch()
            assert read_body(client).endswith(b"last\r\n0\r\n\r\n")
        assert read_pid(process, "shutdown") == pid
        assert read_pid(process, "startup") != pid
        assert get(address).endswith(b"last\r\n0\r\n\r\n")


def test_what_a_terminal_sends_to_all_is_the_masters_affair(directory: Path) -> None:
    with running(directory, "cliapp:app", *ONE) as process:
        [pid], address = read_start(process, 1)
        with start_response(address, "/finish") as client:
            for number in (signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
            (directory / "finish").touch()
            assert read_body(client).endswith(b"last\r\n0\r\n\r\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert read_rest(process) == f"shutdown {pid}\n"  # it had no successor


def test_sighup_replaces_them_without_a_gap(directory: Path) -> None:
    with running(directory, "cliapp:app", *TWO) as process:
        old, address = read_start(process, 2)
        process.send_signal(signal.SIGHUP)
        read_log_until(process, "have been replaced")
        assert get(address).endswith(b"last\r\n0\r\n\r\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        lines = [line.split() for line in read_rest(process).splitlines()]
        new = [int(pid) for stage, pid in lines if stage == "startup"]
        assert (len(new), set(new) & set(old)) == (2, set())
        assert sorted(int(pid) for stage, pid in lines if stage == "shutdown") == sorted(old + new)


def test_after_sighup_the_old_ones_stay_if_the_new_code_is_broken(directory: Path) -> None:
    with running(directory, "cliapp:app", *ONE) as process:
        [pid], address = read_start(process, 1)
        (directory / "broken").touch()
        process.send_signal(signal.SIGHUP)
        assert "broken on purpose" in read_log_until(process, "the old ones stay")
        assert get(address).endswith(b"last\r\n0\r\n\r\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert read_rest(process) == f"shutdown {pid}\n"


def test_a_module_that_is_broken_is_said_once(directory: Path) -> None:
    message = run_failing(directory, "run", "cliapp_broken:app", *TWO)
    assert message.count("No module named 'nowhere_to_be_found'") == 1
    assert message.endswith("tsstream: importing 'cliapp_broken' failed; see the traceback above\n")


def test_a_mistake_is_one_line(directory: Path) -> None:
    message = run_failing(directory, "run", "cliapp:number", *TWO)
    assert message.startswith("tsstream: 'number' in module 'cliapp' is of type int")
    assert message.count("\n") == 1


def test_a_lifespan_that_fails_to_start_is_exit_code_1(directory: Path) -> None:
    message = run_failing(directory, "run", "cliapp:no_start", *TWO, code=1)
    assert message == "tsstream: Lifespan failure in startup. 'no database'\n"


def test_a_signal_while_the_first_one_starts_ends_it(directory: Path) -> None:
    with running(directory, "cliapp:slow_start", *TWO) as process:
        assert read_line(process) == "starting"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert read_rest(process) == ""


def test_an_address_in_use_is_named(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        message = run_failing(directory, "run", "cliapp:app", "--bind", bind, "--workers", "2")
    assert message == f"tsstream: cannot listen on {bind}: Address already in use\n"


def test_they_share_every_kind_of_address(directory: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(directory / "chain.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    (directory / "hypercorn.toml").write_text('insecure_bind = "127.0.0.1:0"\n')
    tls = ("--certfile", "chain.pem", "--keyfile", "key.pem", "--config", "hypercorn.toml")
    with running(directory, "cliapp:app", *TWO, "--bind", "unix:here.sock", *tls) as process:
        _, https = read_start(process, 2)
        unix, http = read_address(process), read_address(process)
        assert https.startswith("https://127.0.0.1:")
        assert unix == "https://unix:here.sock"
        assert get(http).endswith(b"last\r\n0\r\n\r\n")


class FakeWorker(Worker):
    """A worker that serves after a second, unless it is told otherwise, and ends when told."""

    def __init__(self, exit_code: int | None = None, *, after: float = 1.0) -> None:
        process = SimpleNamespace(pid=1, exitcode=None)
        super().__init__(cast(Any, process), cast(Any, None), patience=1.0)
        self._fate = exit_code, after

    async def run(self) -> None:
        exit_code, after = self._fate
        with trio.move_on_after(1.0 if exit_code is None else min(after, 1.0)):
            await self.stopping.wait()
        if exit_code is None or after > 1.0:
            self.addresses = ["http://fake"]
            self.settled.set()
            with trio.move_on_after(10_000.0 if exit_code is None else after - 1.0):
                await self.stopping.wait()
        cast(Any, self.process).exitcode = 0 if self.stopping.is_set() else exit_code
        self.ended.set()
        self.settled.set()

    def stop(self) -> None:
        self.stopping.set()


class FakeWorkers:
    """Starts them, and knows when; each has a fate, the later ones the last of the fates."""

    def __init__(self, *fates: Callable[[], FakeWorker]) -> None:
        self.started: list[float] = []
        self._fates = self._all(fates)

    def _all(self, fates: tuple[Callable[[], FakeWorker], ...]) -> Iterator[FakeWorker]:
        for fate in fates:
            yield fate()
        while True:
            yield fates[-1]()

    def __call__(self) -> Worker:
        self.started.append(trio.current_time())
        return next(self._fates)


def serving() -> FakeWorker:
    return FakeWorker()


def failing() -> FakeWorker:
    return FakeWorker(5, after=0.0)


def dying(after: float, exit_code: int = 5) -> Callable[[], FakeWorker]:
    return lambda: FakeWorker(exit_code, after=after)


async def supervise(workers: FakeWorkers, seconds: float, *, count: int = 1) -> tuple[int, float]:
    """Run *workers* for so long at most; give the exit code and when it was over."""
    supervisor = Supervisor(workers, count=count)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def stop() -> None:
            await trio.sleep(seconds)
            supervisor.stop()

        code = await supervisor.run(lambda addresses: None)
        nursery.cancel_scope.cancel()
    workers.started = [time - start for time in workers.started]
    return code, trio.current_time() - start


async def test_the_first_one_starts_alone(autojump_clock: trio.testing.MockClock) -> None:
    workers = FakeWorkers(serving)
    assert await supervise(workers, 100, count=3) == (0, 100)
    assert workers.started == [0, 1, 1]


async def test_nothing_is_started_after_a_first_one_that_fails(
    autojump_clock: trio.testing.MockClock,
) -> None:
    workers = FakeWorkers(failing)
    assert await supervise(workers, 100, count=3) == (5, 0)
    assert workers.started == [0]


async def test_the_exit_code_is_not_0_if_the_first_one_ends_without_a_word(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for exit_code in (0, -signal.SIGSEGV):
        workers = FakeWorkers(dying(0.0, exit_code))
        assert await supervise(workers, 100) == (1, 0)


async def test_early_deaths_are_replaced_after_growing_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    workers = FakeWorkers(dying(2.0))
    await supervise(workers, 100)
    pauses = [
        later - earlier - 2.0
        for earlier, later in zip(workers.started, workers.started[1:], strict=False)
    ]
    assert pauses[:3] == pytest.approx([FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE])
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)


async def test_one_that_has_lived_long_is_replaced_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    workers = FakeWorkers(dying(STEADY + 1), dying(STEADY + 1), serving)
    await supervise(workers, 100)
    assert workers.started == [0, STEADY + 1, 2 * (STEADY + 1)]


async def test_one_that_ends_well_is_replaced_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    workers = FakeWorkers(dying(2.0, 0), dying(2.0, 0), serving)
    await supervise(workers, 100)
    assert workers.started == [0, 2, 4]


async def test_it_is_over_when_no_worker_can_start_any_more(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    workers = FakeWorkers(dying(STEADY), failing)
    code, end = await supervise(workers, 10_000)
    assert (code, len(workers.started)) == (5, 1 + MAX_FAILED_STARTS)
    assert end < STEADY + 5
    assert "no worker can start; the last exit code is 5" in caplog.text


async def test_as_long_as_one_serves_the_others_are_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    workers = FakeWorkers(serving, dying(STEADY), failing)
    assert await supervise(workers, 1000, count=2) == (0, 1000)
    assert len(workers.started) > 2 * MAX_FAILED_STARTS


async def test_stopping_does_not_wait_for_a_pause(autojump_clock: trio.testing.MockClock) -> None:
    workers = FakeWorkers(serving, dying(STEADY), failing)
    assert await supervise(workers, 999.5, count=2) == (0, 999.5)
