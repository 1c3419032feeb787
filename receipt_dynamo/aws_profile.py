"""The region that a file of AWS's names, where no variable does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["region_of_profile"]


def region_of_profile(variables: Mapping[str, str]) -> str | None:
    """Return the region of the AWS profile in force, as boto3 finds it, or None. Raises nothing:
    what is wrong with the file a delivery says."""
    chosen = variables.get("AWS_CONFIG_FILE") or "~/.aws/config"
    path = Path(os.path.expanduser(chosen))  # noqa: PTH111 - raises nothing
    if not path.is_file():
        return None
    from botocore.configloader import load_config  # loads when there is something to read
    from botocore.exceptions import BotoCoreError

    name = variables.get("AWS_PROFILE") or variables.get("AWS_DEFAULT_PROFILE") or "default"
    try:
        region = load_config(str(path))["profiles"].get(name, {}).get("region")
    except (BotoCoreError, OSError):
        return None
    return region if isinstance(region, str) and region else None
