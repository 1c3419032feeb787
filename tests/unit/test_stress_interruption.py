"""How a run of the stress harness is interrupted, and what its processes have of the user's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from benchmarks.stress.environment import clean_environment
from benchmarks.stress.interruption import InterruptionError, going_on, interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_interrupts_and_others_wait(number: signal.Signals) -> None:
    """While everything is ended, another Ctrl-C does not leave it half done."""
    before = signal.signal(number, signal.default_int_handler)  # a job in the background ignores it

    def run() -> None:
        with interruptible() as stop:
            try:
                signal.raise_signal(number)
            finally:
                signal.raise_signal(signal.SIGTERM)
                tidied.append(stop.is_set())

    tidied: list[bool] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
        assert tidied == [True]
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """``nohup make stress`` goes on when its terminal is gone."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert not stop.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_long_ends_with_the_run() -> None:
    """A table that is read is read no further."""
    with interruptible() as stop:
        things = going_on(stop, iter(range(9)))
        assert next(things) == 0
        stop.set()
        with pytest.raises(InterruptionError):
            next(things)


def test_nothing_of_the_user_s_reaches_a_contender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither settings of AWS's SDKs, nor proxies, nor this library's own, nor a home with files
    of theirs; what Python needs stays."""
    kept = {"PATH": "/usr/bin", "PYTHONPATH": "/somewhere", "TMPDIR": str(tmp_path), "LANG": "C"}
    changing = (
        "AWS_MAX_ATTEMPTS AWS_RETRY_MODE AWS_PROFILE AWS_SESSION_TOKEN AWS_ENDPOINT_URL "
        "AWS_ENDPOINT_URL_DYNAMODB HTTP_PROXY https_proxy RECEIPT_USAGE_DIR DYNAMODB_TABLE_NAME"
    )
    for name, value in {**kept, **dict.fromkeys(changing.split(), "1")}.items():
        monkeypatch.setenv(name, value)
    found = clean_environment(tmp_path / "home")
    assert kept.items() <= found.items()
    assert not set(changing.split()) & set(found)
    assert found["NO_PROXY"] == "127.0.0.1"
    assert found["AWS_CONFIG_FILE"] == found["AWS_SHARED_CREDENTIALS_FILE"] == os.devnull
    assert [*Path(found["HOME"]).iterdir()] == []
