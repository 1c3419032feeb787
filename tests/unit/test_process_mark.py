"""A child is told by a look at memory, also one that a program in C has forked."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable

import pytest

from receipt_dynamo import process_mark as module
from receipt_dynamo.process_mark import process_mark
from tests.support import fork_in_c


def in_a_child(look: Callable[[], int]) -> int:
    """Return what ``look`` says in a child that libc forks: no hook of Python's runs there."""
    pid = fork_in_c()
    if pid == 0:
        answer = 99
        try:
            answer = look()
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_a_grandchild() -> int:
    """Return 10 for what the child's own mark says there, and 1 for what it says beyond."""
    own = process_mark()
    return 10 * own[0] + in_a_child(lambda: own[0])


@pytest.mark.parametrize("refuses", [False, True])
def test_a_child_of_any_fork_sees_another_mark(
    refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the kernel empties pages or has to be asked for the number of the process."""
    if refuses:
        monkeypatch.setattr(module, "_MADV_WIPEONFORK", 10_000)
    mark = process_mark()
    assert isinstance(mark, mmap.mmap) is not refuses
    assert mark[0] == 1
    assert in_a_child(lambda: mark[0]) == 0
    assert in_a_child(in_a_grandchild) == 10
    assert mark[0] == 1


def test_a_kernel_that_takes_any_advice_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator may: what it promises it does not know."""
    monkeypatch.setattr(module, "_NO_ADVICE", mmap.MADV_NORMAL)
    mark = process_mark()
    assert not isinstance(mark, mmap.mmap)
    assert in_a_child(lambda: mark[0]) == 0


def test_elsewhere_than_on_linux_the_process_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number 18 may be another advice there."""
    monkeypatch.setattr(sys, "platform", "darwin")
    mark = process_mark()
    assert not isinstance(mark, mmap.mmap)
    assert mark[0] == 1
