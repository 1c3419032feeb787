"""Credentials in a text: by their form, by what stands before them, or in an address.

The patterns are linear in the length of the text: every repetition is bounded or possessive, and a
run of characters is only ever entered at its beginning. Every branch begins with a literal where
it can, for then ``re`` skips ahead to it: a clean text of 20 characters takes about 1 us.

Forms of keys: the vendors' own documentation, and the rules of GitHub's secret scanning.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from receipt_label.named_secrets import PLAIN_NAME, SECRET, mask_assigned, mask_options

__all__ = ["SECRET", "mask_credentials"]


def _key(literal: str, rest: str, width: int = 0) -> str:
    """Return a pattern for a key with this beginning, which no letter or digit precedes."""
    before = "." * width if width else re.sub(r"\[[^]]*\]", ".", literal)
    return f"{literal}(?<![A-Za-z0-9]{before}){rest}"


_LONG: Final = "[A-Za-z0-9]{20,}+"
_MIXED: Final = "(?:[A-Z]*+[a-z]++[A-Z]){3}"
_PEM: Final = "[A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?"
_CREDENTIAL: Final = re.compile(
    "|".join(
        (
            # OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse; errors quote them with stars.
            _key("sk-", r"(?:proj|svcacct|admin|ant|or|lf|test|live)-[\w*-]{6,}+"),
            # Words between hyphens are a name: sk-learn-model-v2-2024.
            _key("sk-", rf"(?!{PLAIN_NAME}(?![\w*-]))(?=[\w*-]{{0,40}}[\d*])[\w*-]{{16,}}+"),
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
_RUN: Final = r"[\w-]{20,}+"
_MORE_KEYS: Final = (
    ("nvapi-", _RUN),  # NVIDIA
    ("pa-", rf"(?=[a-z0-9_-]{{0,60}}+[A-Z])(?!{PLAIN_NAME}(?![\w-]))[\w-]{{40,}}+"),  # Voyage
    ("csk-", _LONG),  # Cerebras
    ("sk_", r"[0-9a-f]{40,}+(?![A-Za-z0-9])"),  # ElevenLabs
    ("jina_", rf"{_LONG}[\w-]*+"),
    ("fc-", r"[0-9a-f]{32}(?![A-Za-z0-9])"),  # Firecrawl
    ("vck_", _RUN),  # Vercel
    ("ABSK", r"[A-Za-z0-9+/]{40,}+={0,2}+"),  # Bedrock
    ("bedrock-api-key-", r"[A-Za-z0-9+/]{20,}+[\w+/=-]*+"),
    *((f"hv{kind}\\.", r"[\w-]{24,}+") for kind in "sbr"),  # Vault
    ("dckr_pat_", _RUN),
    *((f"do{kind}_v1_", _LONG) for kind in "opr"),  # DigitalOcean
    *((f"gl{kind}-", r"[\w-]{16,}+") for kind in ("cbt", "dt", "rt", "ptt", "soat")),  # GitLab
    ("tskey-", r"(?=[a-z-]{0,20}[A-Z\d])[\w-]{16,}+"),  # Tailscale
    ("lin_api_", _LONG),  # Linear
    ("ntn_", _LONG),  # Notion
    *((f"shp{kind}_", _LONG) for kind in ("at", "ca", "pa", "ss")),  # Shopify
    ("figd_", _RUN),
    ("glsa_", rf"{_LONG}\w*+"),  # Grafana
    ("phx_", _LONG),  # PostHog
    ("sbp_", _LONG),  # Supabase
    ("sb_secret_", rf"(?=[a-z_-]{{0,40}}[A-Z\d])(?!{PLAIN_NAME}(?![\w-])){_RUN}"),
    ("sntrys_", r"[\w+/=-]{20,}+"),  # Sentry
    ("NRAK-", r"[A-Z0-9]{20,}+"),  # New Relic
    ("1//0", _RUN),  # Google's refresh tokens
    ("AGE-SECRET-KEY-", r"(?:PQ-)?[A-Z0-9]{20,}+"),
)
_MORE_LENGTH: Final = 20  # no key of these is shorter


def _by_first(keys: Iterable[tuple[str, str]]) -> str:
    """Return a pattern for any of these keys, which tells at the first letter whether to go on."""
    rests: dict[str, list[str]] = {}
    for literal, rest in keys:
        rests.setdefault(literal[0], []).append(literal[1:] + rest)
    return "|".join(
        f"{first}(?<![A-Za-z0-9].)(?:{'|'.join(rest)})" for first, rest in rests.items()
    )


_MORE: Final = re.compile(_by_first(_MORE_KEYS))
_TELEGRAM: Final = re.compile(r"(?<!\d)\d{8,10}:AA[\w-]{33,}+")
_DISCORD: Final = re.compile(
    r"discord(?:app)?\.com/api/(?:v\d{1,2}/)?webhooks/\d{5,20}/[\w-]{16,}+"
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
    if len(masked) >= _MORE_LENGTH:
        masked = _MORE.sub(SECRET, masked)
        if ":AA" in masked:
            masked = _TELEGRAM.sub(SECRET, masked)
        if "/webhooks/" in masked:
            masked = _DISCORD.sub(SECRET, masked)
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
