"""The region that a file of AWS's names, where no variable does."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["region_of_profile"]


def region_of_profile(variables: Mapping[str, str]) -> str | None:
    """Return the region of the AWS profile in force, or None, as boto3 finds it (botocore's
    ``configprovider`` and ``Session.full_config``).

    Raises nothing: what is wrong with a file, a delivery says.
    """
    config = _path(variables.get("AWS_CONFIG_FILE") or "~/.aws/config")
    credentials = _path(variables.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    if not (os.path.isfile(config) or os.path.isfile(credentials)):  # noqa: PTH113 - raises nothing
        return None
    # It loads when there is something to read.
    from botocore.configloader import load_config, raw_config_parse
    from botocore.exceptions import BotoCoreError, ConfigNotFound

    name = variables.get("AWS_DEFAULT_PROFILE") or variables.get("AWS_PROFILE") or "default"
    profile: dict[str, object] = {}
    try:
        for path, profiles in (
            (config, lambda path: load_config(path)["profiles"]),
            (credentials, raw_config_parse),
        ):
            try:
                profile.update(profiles(path).get(name, {}))
            except ConfigNotFound:
                continue
    except (BotoCoreError, OSError, ValueError):
        return None
    region = profile.get("region")
    return region if isinstance(region, str) and region else None


def _path(text: str) -> str:
    return os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111 - raises nothing
