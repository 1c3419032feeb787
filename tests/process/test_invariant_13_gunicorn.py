"""Invariant 13 with a real server: gunicorn forks its workers from a master that has recorded."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from receipt_dynamo import Settings, open_usage_client
from tests.support.zygote import PATIENCE_SECONDS, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LISTENING = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")


class Server:
    """A running gunicorn with two workers, on a port of its own."""

    def __init__(self, directory: Path, log: Path) -> None:
        options = ["--preload", "--workers", "2", "--bind", "127.0.0.1:0", "--no-control-socket"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *options, "tests.support.wsgi_app:application"],
                cwd=ROOT,
                env={**os.environ, "RECEIPT_USAGE_DIR": str(directory)},
                stdout=output,
                stderr=output,
            )
        self._log = log
        self._port = self._find_port()

    def _find_port(self) -> int:
        end = time.monotonic() + PATIENCE_SECONDS
        while (found := LISTENING.search(self._log.read_text())) is None:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.01)
        return int(found[1])

    def ask(self, request_id: str) -> tuple[str, int] | None:
        """Record one metric; return the answer and the worker's process id, None where it died."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", f"/{request_id}")
            answer, worker = connection.getresponse().read().decode().split()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return answer, int(worker)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_SECONDS) == 0, self._log.read_text()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "usage", tmp_path / "gunicorn.log")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def test_invariant_13_requests_of_preloaded_workers_are_reported_once(
    server: Server, tmp_path: Path
) -> None:
    """Workers forked after the master recorded are killed and replaced: every record that was
    answered STORED is in the report once, the master's too, and none has another's id."""
    stored, perhaps, workers = ["master"], set[str](), set[int]()
    for n in range(200):
        answer = server.ask(f"r{n}")
        if answer is None:  # the worker was killed over it
            perhaps.add(f"r{n}")
            continue
        assert answer[0] == "STORED"
        stored.append(f"r{n}")
        workers.add(answer[1])
        if n % 40 == 39:
            os.kill(answer[1], signal.SIGKILL)
    assert len(workers) > 2, "no killed worker was replaced"
    server.stop()
    with open_usage_client(Settings(usage_dir=tmp_path / "usage", drain="manual")) as client:
        reported = [metric.request_id for metric in client.query()]
        assert client.dropped().count == 0
        assert client.pending() == 0
    assert len(reported) == len(set(reported))
    assert set(stored) <= set(reported) <= set(stored) | perhaps
