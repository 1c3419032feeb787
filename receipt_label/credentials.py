"""Credentials in a text: by their form, by what stands before them, or in an address.

The patterns are linear in the length of the text: every repetition is bounded or possessive, and a
run of characters is only ever entered at its beginning. Every branch begins with a literal where
it can, for then ``re`` skips ahead to it: a clean text of 20 characters takes about 1 us.

Forms of keys: the vendors' own documentation, and the rules of GitHub's secret scanning.
"""

from __future__ import annotations

import binascii
import re
from itertools import pairwise
from typing import Final

from receipt_label.named_secrets import SECRET, mask_assigned, mask_options

__all__ = ["SECRET", "mask_credentials"]


def _key(literal: str, rest: str, width: int = 0) -> str:
    """Return a pattern for a key with this beginning, which no letter or digit precedes."""
    before = "." * width if width else re.sub(r"\[[^]]*\]", ".", literal)
    return f"{literal}(?<![A-Za-z0-9]{before}){rest}"


_LONG: Final = "[A-Za-z0-9]{20,}+"
_MIXED: Final = "(?:[A-Z]*+[a-z]++[A-Z]){3}"
_PEM: Final = "[A-Z ]{0,40}PRIVATE KEY"
_CREDENTIAL: Final = re.compile(
    "|".join(
        (
            # OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse; errors quote them with stars.
            _key("sk-", r"(?:proj|svcacct|admin|ant|or|lf|test|live)-[\w*-]{6,}+"),
            _key("sk-", r"(?=[\w*-]{0,40}[\d*])[\w*-]{16,}+"),
            # Without a digit: as long as no word is, or of more changes of case than names have.
            _key(
                "sk-", r"(?:[A-Za-z]{28,}+|(?=(?:[A-Z]*+[a-z]++[A-Z]){3})[A-Za-z]{16,}+)(?![\w-])"
            ),
            _key("AIza", r"[\w-]{24,}+"),  # Google
            _key("AQ\\.", r"A[\w-]{20,}+", 3),
            _key("ya29\\.", r"[\w-]{16,}+", 5),
            _key("GOCSPX-", r"[\w-]{16,}+"),
            _key("A[KS]IA", r"[A-Z0-9]{16}(?![A-Za-z0-9])"),  # AWS
            _key("gh[pousr]_", _LONG),  # GitHub
            _key("github_pat_", r"\w{20,}+"),
            _key("glpat-", r"[\w-]{16,}+"),
            _key("xox[a-z]-", r"[\w-]{8,}+"),  # Slack
            _key("xapp-", r"[\w-]{16,}+"),
            r"hooks\.slack\.com/services/[\w/]{8,}+",
            *(_key(f"{kind}k_", r"(?:live|test)_[A-Za-z0-9]{8,}+") for kind in "spr"),  # Stripe
            _key("whsec_", r"[A-Za-z0-9+/=]{16,}+"),
            _key("hf_", _LONG),
            _key("gsk_", _LONG),
            _key("xai-", _LONG),
            _key("pplx-", _LONG),
            _key("fw_", _LONG),
            _key("r8_", _LONG),
            _key("pcsk_", r"\w{20,}+"),
            _key("tgp_v1_", r"[\w-]{20,}+"),
            _key("tvly-", r"[\w-]{16,}+"),
            _key("lsv2_", r"\w{20,}+"),
            _key("npm_", _LONG),
            _key("pypi-", r"[\w-]{32,}+"),
            _key("dapi", r"[0-9a-f]{32}(?![A-Za-z0-9])"),
            _key("SG\\.", r"[\w-]{16,}+\.[\w-]{16,}+", 3),
            # A JSON web token. No hyphen before it either: runs of them must not be entered twice.
            r"eyJ(?<![\w-]eyJ)[\w-]{6,}+\.[\w-]{4,}+(?:\.[\w-]*+)?",
            rf"-----BEGIN {_PEM}-----(?s:.*?)(?:-----END {_PEM}-----|\Z)",
        )
    )
)
# A token of letters alone is one behind the name of the header, or where no word looks like it.
_BEARER: Final = re.compile(
    rf"([Bb]earer[ \t]{{1,4}})(?=[\w.~+/=-]{{0,200}}\d|[\w.~+/=-]{{24}}|{_MIXED})"
    r"[\w.~+/=-]{8,}+"
    r"|((?:[Aa]uthorization|AUTHORIZATION)[\s\"'\[\\:=]{1,8}+(?:[Bb]earer|BEARER)[ \t]{1,4}+)"
    r"(?!\[)[\w.~+/=-]{4,}+"
)
_BASIC: Final = re.compile(r"([Bb]asic[ \t]{1,4})([A-Za-z0-9+/]{8,4096}+={0,2}+)")
_QUERY: Final = re.compile(
    r"([?&](?:key|appid|code)=)(?=[\w.~%/+-]{0,200}\d)[\w.~%/+-]{16,}+", re.IGNORECASE
)
# A password may have an at sign in it, and a slash unless the name before it may be a host's with
# its port.
_USER_INFO: Final = re.compile(
    r"""://(?:[^\s/@:?#]{0,128}+:[^\s/@]{1,512}+@
      |(?!\[)[^\s/@:?#]{0,128}+:(?!\d{0,5}/)(?:[^\s@/"'<>,]|/(?!/)){1,512}+@)
    (?:[^\s/?\#@"'<>,;()]{1,256}+@)*+""",
    re.VERBOSE,
)

# AWS's secret access keys have no form but this. An id may have it too, so a text must say whose.
_AWS_SECRET: Final = re.compile(r"(?<![A-Za-z0-9/+])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")
_AWS: Final = re.compile(
    r"A[KS]IA[A-Z0-9]{16}|[Aa][Ww][Ss]|[Aa]mazon|[Aa]ccess.?[Kk]ey|(?<!\[)[Ss]ecret|SECRET"
)
_AWS_HINTS: Final = ("AKIA", "ASIA", "aws", "AWS", "Aws", "mazon", "ccess", "ecret", "SECRET")
_AWS_LENGTH: Final = 40
_CHANGES: Final = 14  # of case or kind from one character to the next: 25 on average, 3 deviations
_SLASHES: Final = 3  # more are a path
_LOWER_RUN: Final = re.compile(r"[a-z]{4,}")
_LOWER_RUNS: Final = 3  # more are words


def mask_credentials(text: str) -> str:
    """Return the text with keys, tokens and passwords replaced; the same object without any."""
    masked = text
    if len(text) >= _AWS_LENGTH and _is_of_aws(text):
        masked = _AWS_SECRET.sub(_aws_secret, text)
    masked = _CREDENTIAL.sub(SECRET, masked)
    if "earer" in masked or "EARER" in masked:
        masked = _BEARER.sub(_behind, masked)
    if "asic" in masked:
        masked = _BASIC.sub(_basic, masked)
    if "=" in masked and ("?" in masked or "&" in masked):
        masked = _QUERY.sub(_behind, masked)
    if "-" in masked:
        masked = mask_options(masked)
    if "@" in masked and "://" in masked:
        masked = _USER_INFO.sub(f"://{SECRET}@", masked)
    masked = mask_assigned(masked)
    return masked if masked != text else text


def _behind(found: re.Match[str]) -> str:
    return f"{found[found.lastindex or 0]}{SECRET}"


def _is_of_aws(text: str) -> bool:
    for hint in _AWS_HINTS:  # faster than the pattern, and most texts have none
        if hint in text:
            return _AWS.search(text) is not None
    return False


def _aws_secret(found: re.Match[str]) -> str:
    key = found[0]
    kinds = [
        0 if one.isdigit() else 1 if one.islower() else 2 if one.isupper() else 3 for one in key
    ]
    changes = sum(one != after for one, after in pairwise(kinds))
    is_random = (
        {0, 1, 2} <= set(kinds)
        and changes >= _CHANGES
        and key.count("/") <= _SLASHES
        and len(_LOWER_RUN.findall(key)) <= _LOWER_RUNS
    )
    return SECRET if is_random else key


def _basic(found: re.Match[str]) -> str:
    """Replace what is base64 of ``user:password``; "basic understanding" is none."""
    encoded = found[2].rstrip("=")
    try:
        plain = binascii.a2b_base64(encoded[: len(encoded) // 4 * 4]).decode()
    except ValueError:
        return found[0]
    rest = plain.replace(":", "", 1)
    return f"{found[1]}{SECRET}" if ":" in plain and rest.isprintable() else found[0]
