"""What other programs see: the public names, the price of an import, the rules of the house."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import receipt_dynamo
import receipt_label

ROOT = Path(receipt_dynamo.__file__).parent.parent
HEAVY = (
    "boto3 botocore tenacity asyncio sqlite3 genai_prices click rich openai anthropic "
    "opentelemetry pydantic httpx requests urllib3 msgspec decimal zoneinfo multiprocessing "
    "concurrent.futures prometheus_client inspect"
).split()


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("package", ["receipt_label", "receipt_dynamo"])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    """boto3, SQLite, prices, asyncio, click, rich and vendors' SDKs load when they are used."""
    done = python("-X", "importtime", "-c", f"import {package}")
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert package in loaded
    assert loaded.isdisjoint(HEAVY)


QUIET_IMPORT = """
import os, signal, sys, threading

def handlers():
    return [signal.getsignal(number) for number in signal.valid_signals()]

def watch(name, args):
    writes = name == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if name == "socket.connect" or (writes and "__pycache__" not in str(args[0])):
        touched.append((name, args))

touched, before, files = [], handlers(), len(os.listdir("/proc/self/fd"))
sys.addaudithook(watch)
import receipt_label, receipt_dynamo
for package in (receipt_label, receipt_dynamo):
    for name in package.__all__:
        getattr(package, name)
assert handlers() == before
assert len(os.listdir("/proc/self/fd")) == files
assert threading.enumerate() == [threading.main_thread()]
assert not touched, touched
"""


def test_importing_does_nothing_but_define() -> None:
    """No thread, no signal handler, no output, no file, no network."""
    done = python("-B", "-c", QUIET_IMPORT)  # what Python compiles it may write
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_recording_loads_neither_the_network_nor_a_terminal() -> None:
    """A pipeline that records carries no boto3, no click, no vendor's SDK."""
    done = python(
        "-c",
        "import sys\n"
        "from receipt_label import AIUsageTracker\n"
        "with AIUsageTracker() as tracker:\n"
        "    tracker.record(service='openai', model='gpt-4o', operation='chat', input_tokens=1)\n"
        "unwanted = 'boto3 botocore click rich openai anthropic opentelemetry '\n"
        "unwanted += 'prometheus_client'\n"
        "unwanted = unwanted.split()\n"
        "print(*sorted(sys.modules.keys() & unwanted))",
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


SURFACE = {
    "receipt_dynamo": "AIUsageMetric open_usage_client UsageClient UsageQuery UsageSummary "
    "UsageStore PutResult FlushReport Health Settings detect_environment mint_request_id "
    "ConfigurationError UsageError",
    "receipt_label": "AIUsageTracker PriceBook detect_environment wrap_context "
    "ContextThreadPoolExecutor ContextProcessPoolExecutor context_environment AIUsageMetric "
    "PutResult FlushReport UsageQuery open_usage_client ClientManager ClientConfig "
    "get_client_manager ai_usage_context batch_ai_usage_context partial_failure_context "
    "ai_usage_tracked MetricExporter PrometheusExporter OpenTelemetryExporter Operation "
    "PartialFailures",
}
METHODS = {
    "AIUsageTracker": "record record_response context track tool wrap flush close health "
    "__enter__ __exit__",
    "ClientManager": "dynamo usage_tracker openai anthropic close __enter__ __exit__",
    "ClientConfig": "from_env dynamo_table",
    "UsageClient": "put_ai_usage_metric put_ai_usage_metrics flush close health query summarize "
    "__enter__ __exit__",
    "AIUsageMetric": "to_item from_item identity",
}


@pytest.mark.parametrize("package", SURFACE)
def test_the_public_names_are_there(package: str) -> None:
    """Other programs call them; every name of ``__all__`` loads, and has a first sentence."""
    module = importlib.import_module(package)
    assert set(SURFACE[package].split()) <= set(module.__all__)
    assert sorted(module.__all__) == sorted(dir(module))
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type) or callable(value):
            assert value.__doc__, name
        for method in METHODS.get(name, "").split():
            assert hasattr(value, method), f"{name}.{method}"
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = module.missing
    assert receipt_label.__version__ == receipt_dynamo.__version__


FORBIDDEN = {"time", "random", "asyncio", "socket", "subprocess", "secrets", "sched", "_thread"}


def impurities(source: str) -> list[str]:
    """Return what in ``source`` asks the clock, throws dice, starts threads or touches files."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "threading":
                names = [f"threading.{a.name}" for a in node.names if a.name not in LOCKS]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            called = f"{node.value.id}.{node.attr}"
            clock = node.value.id == "datetime" and node.attr in ("now", "utcnow", "today")
            thread = node.value.id == "threading" and node.attr not in LOCKS
            names = [called] if clock or thread or node.value.id in FORBIDDEN else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = ["open"] if node.func.id == "open" else []
        found += [
            name
            for name in names
            if name.split(".")[0] in FORBIDDEN
            or name == "open"
            or name.startswith(("threading.", "datetime."))
        ]
    return found


LOCKS = {"Lock", "RLock"}


def test_parts_that_decide_know_no_clock_no_chance_no_thread() -> None:
    """Time and chance are injected, so that tests turn them by hand."""
    utils = ROOT / "receipt_dynamo" / "utils"
    exempt = {"clock.py", "chance.py"}
    deciding = ("dispatch", "failure_rules", "failures", "guards")
    for path in (*utils.glob("*.py"), *(utils.parent / f"{name}.py" for name in deciding)):
        if path.name not in exempt:
            assert impurities(path.read_text()) == [], path.name
    assert all(impurities((utils / name).read_text()) for name in exempt)


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "import random as r",
        "from threading import Thread",
        "import threading\nthreading.Timer(1, f)",
        "import datetime\ndatetime.now()",
        "def f():\n    time.sleep(1)",
        "open('x')",
    ],
)
def test_the_rule_for_utils_finds_what_it_forbids(source: str) -> None:
    """A rule that finds nothing proves nothing."""
    assert impurities(source)


def test_the_rule_for_utils_allows_locks_and_decisions() -> None:
    """Deciding under a lock is what these parts are for."""
    assert impurities("import threading\nlock = threading.Lock()\nfrom datetime import UTC") == []
