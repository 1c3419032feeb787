"""The dead letters of one destination: looked at, sent again, or given up.

A letter stays in ``dead/`` until somebody retries or drops it. Removing one needs no room on the
disk: its line is overwritten with blanks, the first byte before the others, and the file goes with
its last letter. Line numbers stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from receipt_dynamo.dead_letter import DeadLetter
from receipt_dynamo.errors import DeadLetterError
from receipt_dynamo.files import READ_FLAGS, secure_directory
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.payload import encode_payload
from receipt_dynamo.settings import Settings
from receipt_dynamo.spool.aside import DEAD, DEAD_SUFFIX, QUARANTINE, Letter, aside_lock
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.utils.clock import Clock, SystemClock

__all__ = ["DeadLetters"]

_LOCK_SECONDS = 10.0
_CHANGE = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_log = safe_logger("receipt_dynamo.dead_letters")


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a file of ``dead/``. ``letter`` is None for one that was removed."""

    offset: int
    size: int
    letter: DeadLetter | None


class DeadLetters:
    """The ``dead/`` directory of the destination of ``settings``. Thread-safe.

    A drainer may add letters meanwhile, and other processes may retry or drop: whoever changes
    something holds a lock. A letter leaves ``dead/`` only when its record, or the gap that counts
    it as lost, is in the spool and on the disk. Who is killed between leaves it in both places,
    under one identity: done again, it counts once.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._spool_dir = settings.spool_dir
        self._directory = settings.spool_dir / DEAD
        self._segment_bytes = settings.segment_bytes
        self._clock = clock or SystemClock()

    def letters(self) -> list[DeadLetter]:
        """Return every letter, by file and line; one that lies there twice once.

        Changes nothing. A file that cannot be read is named in the log. Raises
        DirectoryRefusedError where the directory is not ours alone.
        """
        found: dict[str, DeadLetter] = {}
        for path in self._files():
            for line in self._lines(path):
                if line.letter is not None:
                    found[line.letter.id] = line.letter
        return list(found.values())

    def letter(self, name: str) -> DeadLetter:
        """Return the letter of this id. Raises DeadLetterError."""
        return self._chosen([name])[0]

    def retry(self, names: Collection[str] | None = None) -> list[DeadLetter]:
        """Put letters into the spool again, where any delivery finds them; return them.

        ``names`` are their ids; None means every letter that is a record. Raises DeadLetterError,
        and changes nothing, for an unknown id and for a letter that is no record.
        """

        def payload(letter: DeadLetter) -> bytes:
            # An editor may have broken the line; within JSON that can only be between its tokens.
            return letter.record.replace("\n", " ").encode("utf-8", "replace")

        with self._locked():
            chosen = self._chosen(names)
            if names is None:
                chosen = [letter for letter in chosen if letter.fault is None]
            for letter in chosen:
                if letter.fault is not None:
                    raise DeadLetterError(
                        f"the dead letter {letter.id} is no record and cannot be retried: "
                        f"{letter.fault}. To give it up: receipt-usage dead drop {letter.id}"
                    )
            self._move(chosen, payload)
        return chosen

    def drop(self, names: Collection[str] | None = None) -> list[DeadLetter]:
        """Give letters up and count each as a loss, with its tokens and cost; return them.

        ``names`` are their ids; None means all. Raises DeadLetterError, and changes nothing, for
        an unknown id.
        """

        def payload(letter: DeadLetter) -> bytes:
            return encode_payload(letter.loss(self._clock.now()))

        with self._locked():
            chosen = self._chosen(names)
            self._move(chosen, payload)
        return chosen

    def quarantined(self) -> dict[Path, int]:
        """Return how many damaged lines lie in each file of ``quarantine/``. Changes nothing."""
        counts = {}
        for path in _files_of(self._spool_dir / QUARANTINE, ".bad"):
            data = _read(path)
            if data:
                counts[path] = data.count(b"\n")
        return counts

    def _chosen(self, names: Collection[str] | None) -> list[DeadLetter]:
        letters = self.letters()
        if names is None:
            return letters
        known = {letter.id: letter for letter in letters}
        for name in names:
            if name not in known:
                raise DeadLetterError(
                    f"no dead letter has the id {name!r}. See: receipt-usage dead list"
                )
        return [known[name] for name in dict.fromkeys(names)]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep drainers and other commands from changing what lies in ``dead/``."""
        if not self._directory.exists():  # nothing to change
            yield
            return
        with aside_lock(self._spool_dir) as lock:
            lock.acquire(_LOCK_SECONDS)
            yield

    def _move(self, letters: Sequence[DeadLetter], payload: Callable[[DeadLetter], bytes]) -> None:
        """Write a payload for each letter into the spool, then remove the letters.

        Without bounds: what is moved takes no more of the disk than before, but for a moment.
        """
        written: set[str] = set()
        failure: OSError | None = None
        writer = SpoolWriter(self._spool_dir, self._segment_bytes)
        try:
            for letter in letters:
                writer.append(payload(letter), count=0)
                written.add(letter.id)
        except OSError as error:
            failure = error
        try:
            writer.sync()
        except OSError as error:
            failure, written = error, set()
        finally:
            writer.close()
        self._remove(written)
        if failure is not None:
            raise DeadLetterError(
                f"the spool {self._spool_dir} refuses more: {failure.strerror or failure}. "
                f"{len(written)} of {len(letters)} letters are done, the others lie where they "
                "were. Make room, and try again."
            ) from failure

    def _remove(self, names: Collection[str]) -> None:
        """Remove every copy of these letters. Needs the lock."""
        if not names:
            return
        for path in self._files():
            lines = self._lines(path)
            staying = [x for x in lines if x.letter is not None and x.letter.id not in names]
            going = [x for x in lines if x.letter is None or x.letter.id in names]
            try:
                if going and staying:
                    _blank(path, going)
                elif going:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise DeadLetterError(
                    f"{path} cannot be changed: {error.strerror}. What it holds is in the spool "
                    "by now, and it still lists it; to do the same again does no harm."
                ) from error

    def _files(self) -> list[Path]:
        return _files_of(self._directory, DEAD_SUFFIX)

    def _lines(self, path: Path) -> list[_Line]:
        """Return the lines of a file, whole letters and removed ones.

        A last line without its newline, and without sense, is one that is just being written, or
        that a kill cut short: its record is still in its segment.
        """
        lines = []
        offset = 0
        data = _read(path)
        for number, text in enumerate(data.split(b"\n"), 1):
            is_last = offset + len(text) == len(data)
            if text and not (is_last and _letter_of(text) is None):
                lines.append(_Line(offset, len(text), _dead_letter(text, path, number)))
            offset += len(text) + 1
        return lines


def _dead_letter(text: bytes, path: Path, number: int) -> DeadLetter | None:
    """Return the letter of a line; one that makes no sense is a letter too, unless removed."""
    letter = _letter_of(text)
    if letter is None:
        if text.startswith(b" "):
            return None
        letter = Letter("this line is damaged, or none of ours", text.decode("utf-8", "replace"))
    return DeadLetter.of(letter, path, number)


def _letter_of(text: bytes) -> Letter | None:
    try:
        return msgspec.json.decode(text, type=Letter)
    except (msgspec.MsgspecError, ValueError):
        return None


def _files_of(directory: Path, suffix: str) -> list[Path]:
    """Return the files of a directory of ours, oldest first; none where it is not there."""
    if not os.path.lexists(directory):
        return []
    secure_directory(directory)
    return sorted(path for path in directory.iterdir() if path.name.endswith(suffix))


def _read(path: Path) -> bytes:
    """Return what a file holds. What is no file, or cannot be read, is named and left alone."""
    try:
        descriptor = os.open(path, READ_FLAGS)
        try:
            return os.read(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:  # its last letter has just been removed
        return b""
    except OSError as error:
        _log.warning("%s cannot be read and is left alone: %s", path, error.strerror)
        return b""


def _blank(path: Path, lines: Sequence[_Line]) -> None:
    """Overwrite lines with blanks, first their first byte: a line half overwritten is no letter."""
    descriptor = os.open(path, _CHANGE)
    try:
        for line in lines:
            os.pwrite(descriptor, b" ", line.offset)
        os.fdatasync(descriptor)
        for line in lines:
            os.pwrite(descriptor, b" " * line.size, line.offset)
    finally:
        os.close(descriptor)
