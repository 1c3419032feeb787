"""Where records are not safe, who records there is told so, once, and nothing is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from receipt_dynamo import PutResult, file_systems
from tests.support import make_metric

MOUNTS = """\
22 1 0:20 / / rw - ext4 /dev/sda rw
23 22 0:21 / /home rw,relatime shared:1 - nfs4 server:/home rw
24 23 0:22 / /home/with\\040space\\134 rw - tmpfs tmpfs rw
25 22 0:23 / /homestead rw - xfs /dev/sdb rw
26 22 0:24 / /home rw - btrfs /dev/sdc rw
damaged
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/var/usage", "ext4"),
        ("/", "ext4"),
        ("/home", "btrfs"),
        ("/home/me", "btrfs"),
        ("/home/with space\\/usage", "tmpfs"),
        ("/homestead/me", "xfs"),
        ("/homes", "ext4"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(
    mounts: Path, directory: str, kind: str
) -> None:
    """The longest mount point that holds the directory; of two on one point the later."""
    assert file_systems.file_system_of(Path(directory), mounts) == kind
    assert file_systems.file_system_of(Path(directory), mounts / "none") is None


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pretend that every directory lies on a file system of this kind."""

    def pretend(kind: str) -> None:
        monkeypatch.setattr(file_systems, "file_system_of", lambda _directory: kind)

    monkeypatch.setattr(file_systems, "_warned", set())
    return pretend


@pytest.mark.parametrize(
    ("kind", "said"),
    [("nfs4", "SQLite need a local disk"), ("tmpfs", "gone after a reboot"), ("ext4", None)],
)
def test_recording_on_an_unsafe_file_system_is_warned_of_once_and_not_refused(
    on, open_client, caplog: pytest.LogCaptureFixture, kind: str, said: str | None
) -> None:
    """The reason and the remedy, once for a process and a directory; the record is stored."""
    on(kind)
    for _ in range(2):
        client = open_client(drain="external")
        assert client.put_ai_usage_metric(make_metric()) is PutResult.STORED
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == (said is not None)
    for text in warnings:
        assert said in text
        assert str(client.settings.usage_dir) in text
        assert "Set RECEIPT_USAGE_DIR" in text


def test_a_command_is_not_warned(on, open_client, caplog: pytest.LogCaptureFixture) -> None:
    """It records nothing in the background; receipt-usage doctor says it."""
    on("nfs4")
    open_client(drain="manual")
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_what_cannot_be_known_is_no_warning(
    open_client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mounts: Path
) -> None:
    """Without /proc a client opens as always."""
    monkeypatch.setattr(file_systems, "_warned", set())
    monkeypatch.setattr(file_systems.file_system_of, "__defaults__", (mounts / "none",))
    open_client(drain="external")
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
