"""The environment of everything that a run starts: nothing of the user's changes a figure.

Settings of AWS's SDKs, proxies and settings of this library would: ``AWS_MAX_ATTEMPTS`` alone makes
another contender.
"""

from __future__ import annotations

import os
import site
from pathlib import Path

__all__ = ["clean_environment"]

_KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "VIRTUAL_ENV")
"""What Python needs to start and to find its modules, and where temporary files may lie."""


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment that is the same for every user. ``home`` is made; it is empty."""
    home.mkdir(exist_ok=True)
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "HOME": str(home),
        "PYTHONUSERBASE": site.getuserbase(),  # packages that lie in the user's own home
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
