"""The DynamoDB that a run writes to: AWS's own engine where it can be had, moto's server else.

Both are started here, on a free port, and end with this process. What is in a table is read back
from the engine itself, past every proxy and every client of ours.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from benchmarks.stress.environment import clean_environment
from benchmarks.stress.parent import watched
from benchmarks.stress.places import temporary_place
from receipt_dynamo.dynamo_admin import TableAdmin
from receipt_dynamo.dynamo_registry import Registry
from receipt_dynamo.utils.clock import SystemClock
from tools import dynamodb_local

__all__ = ["Engine", "EngineError", "credentials", "running_engine"]

T = TypeVar("T")

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 90.0
_READ_SECONDS = 60.0
_LOCAL, _MOTO = "local", "moto"
_log = logging.getLogger("benchmarks.stress")


class EngineError(Exception):
    """No engine, or one that does not answer."""


def credentials(name: str) -> dict[str, str]:
    """Return what a process's environment needs: the engine has a database for each access key."""
    return {
        "AWS_ACCESS_KEY_ID": "".join(letter for letter in name if letter.isalnum()),
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine. ``name`` says which, for the report."""

    name: str
    url: str

    def create_table(self, table: str, access_key: str) -> None:
        """Create the table of the library: its keys, its indexes. Raises StoreError."""

        def call(operation: str, request: Mapping[str, Any], form: type[T]) -> T:
            return msgspec.convert(self._call(operation, request, access_key), type=form)

        registry = Registry(table)
        admin = TableAdmin(call, table, f"the table {table}", registry, SystemClock())
        admin.create(shards=1, tries=1, wait_seconds=0.1)

    def drop_table(self, table: str, access_key: str) -> None:
        """Delete a table: it lies in the engine's memory."""
        self._call("DeleteTable", {"TableName": table}, access_key)

    def items(
        self, table: str, access_key: str, partitions: Iterable[str]
    ) -> Iterator[dict[str, Any]]:
        """Yield every item of a table, to the last page, as plain values; numbers are Decimal.

        Those of ``partitions`` first, and by query: each page of a scan costs DynamoDB Local the
        whole table, and of hundreds of thousands it answers none any more. Only where the engine
        counts more items than these is the rest looked for by a scan.
        """
        seen: set[tuple[str, str]] = set()
        for partition in partitions:
            asked = {
                "KeyConditionExpression": "PK = :partition",
                "ExpressionAttributeValues": {":partition": {"S": partition}},
            }
            for item in self._pages("Query", table, access_key, asked):
                seen.add((item["PK"], item["SK"]))
                yield item
        described = self._call("DescribeTable", {"TableName": table}, access_key)
        if described["Table"]["ItemCount"] == len(seen):
            return
        for item in self._pages("Scan", table, access_key, {}):
            if (item["PK"], item["SK"]) not in seen:
                yield item

    def _pages(
        self, operation: str, table: str, access_key: str, asked: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Yield what an operation finds; the engine reads the next page meanwhile."""
        body: dict[str, Any] = {"TableName": table, "ConsistentRead": True, **asked}
        with ThreadPoolExecutor(1) as reader:
            coming: Future[dict[str, Any]] | None
            coming = reader.submit(self._call, operation, body, access_key)
            while coming is not None:
                page, coming = coming.result(), None
                start = page.get("LastEvaluatedKey")
                if start is not None:
                    body = {**body, "ExclusiveStartKey": start}
                    coming = reader.submit(self._call, operation, body, access_key)
                for item in page["Items"]:
                    yield {name: _plain(value) for name, value in item.items()}

    def _call(self, operation: str, body: Mapping[str, Any], access_key: str) -> dict[str, Any]:
        """Call the engine without any SDK: it looks at the access key and checks no signature."""
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.netloc, timeout=_READ_SECONDS)
        key = credentials(access_key)["AWS_ACCESS_KEY_ID"]
        credential = f"{key}/20261128/us-east-1/dynamodb/aws4_request"
        headers = {
            "X-Amz-Target": f"DynamoDB_20120810.{operation}",
            "X-Amz-Date": "20261128T000000Z",
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, "
            "SignedHeaders=host, Signature=0",
        }
        try:
            connection.request("POST", "/", json.dumps(body), headers)
            reply = connection.getresponse()
            told = reply.read()
        except OSError as error:
            raise EngineError(f"{self.name} does not answer {operation}: {error}") from error
        finally:
            connection.close()
        if reply.status != 200:
            raise EngineError(f"{self.name} refuses {operation}: {told.decode(errors='replace')}")
        found: dict[str, Any] = json.loads(told)
        return found


def _plain(value: Mapping[str, Any]) -> Any:
    """Return a typed value of DynamoDB's JSON as Python has it."""
    ((kind, inner),) = value.items()
    if kind == "N":
        return Decimal(inner)
    if kind == "M":
        return {name: _plain(part) for name, part in inner.items()}
    if kind == "L":
        return [_plain(part) for part in inner]
    if kind == "NULL":
        return None
    return inner


@contextmanager
def running_engine(which: str | None = None) -> Iterator[Engine]:
    """Run an engine: ``local`` or ``moto``; None is the first that can be had and starts.

    Raises EngineError that says what is missing.
    """
    with temporary_place() as place, ExitStack() as stack:
        yield _start(which, place, stack)


def _start(which: str | None, directory: Path, stack: ExitStack) -> Engine:
    """Return a running engine that ends with ``stack``."""
    if which != _MOTO:
        try:
            return stack.enter_context(_local(directory))
        except EngineError as error:
            if which == _LOCAL:
                raise
            _log.warning("%s. moto's server takes its place.", error)
    return stack.enter_context(_moto(directory))


@contextmanager
def _local(directory: Path) -> Iterator[Engine]:
    try:
        dynamodb_local.fetch()
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(f"DynamoDB Local cannot be had: {error}") from error
    ready = directory / "ready"
    tool = Path(dynamodb_local.__file__)
    command = [sys.executable, str(tool), "serve", "--for", str(os.getpid()), "--ready", str(ready)]
    command.append("--optimize")
    with _process(command, directory / "log") as process:
        _wait_for(ready.exists, process, directory / "log")
        yield Engine(f"DynamoDB Local ({dynamodb_local.PACKAGE})", ready.read_text())


@contextmanager
def _moto(directory: Path) -> Iterator[Engine]:
    port = dynamodb_local.free_port()
    command = watched("moto.server", "-H", "127.0.0.1", "-p", str(port))

    def answers() -> bool:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
            connection.request("GET", "/moto-api/")
            return connection.getresponse().status < 500
        return False

    with _process(command, directory / "log") as process:
        _wait_for(answers, process, directory / "log")
        yield Engine(f"moto server ({version('moto')})", f"http://127.0.0.1:{port}")


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=clean_environment(log.with_name("home")),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _wait_for(answers: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > end:
            raise EngineError(f"the engine does not start: {log.read_text().strip() or 'no word'}")
        time.sleep(0.05)
