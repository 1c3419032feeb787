"""Run an example without a key: a server on this machine answers for OpenAI and Anthropic.

    python -m examples.stand_in labeling_openai
    python -m examples.stand_in pipeline.py            # a program of your own

The server speaks the vendors' protocols and answers with recorded replies: their usage is real,
their texts are made up here. The examples find it by the variables that the vendors' SDKs read
themselves, so they run unchanged. What they record goes to ``.demo``, or where ``RECEIPT_DEMO_DIR``
says, and never to a table or among the user's own records: ``tools/demo report`` shows it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tests.support.vendor_server import Answer, Asked, VendorServer

HERE = Path(__file__).parent
EXAMPLES = sorted(path.stem for path in HERE.glob("*.py") if path.name != Path(__file__).name)
DEMO_DIR = HERE.parent / ".demo"
SDK = re.compile(r"^(?:from|import) (openai|anthropic)\b", re.MULTILINE)
OWN_SETTINGS = re.compile("RECEIPT_USAGE_.*|DYNAMO.*|AWS_ENDPOINT_URL.*|DEPLOYMENT_.*")
LABELS = {
    "assorted goods": "office",
    "milk": "groceries",
    "ticket": "travel",
    "diesel": "fuel",
    "coffee": "meals",
}
RAMBLED_ABOUT = "assorted goods"
NEVER_EXPLAINED = "faded"
EVENTS_BEFORE_SILENCE = 4


class StandIn(VendorServer):
    """Answers what receipts are for, and why; of one that is faded it begins a reason, no more."""

    def __init__(self) -> None:
        super().__init__(own_ids=True)

    def words(self, asked: Asked) -> str:
        """Return a label by a word of the receipt, or a reason."""
        receipt = str(asked.json)
        seen = next((word for word in LABELS if word in receipt), "nothing legible")
        label = LABELS.get(seen, "other")
        if not _explains(asked):
            return label
        reason = f"It lists {seen}, so it is for {label}."
        return f"{reason} There is more to say." if seen == RAMBLED_ABOUT else reason

    def answer(self, asked: Asked) -> Answer:
        """Answer as recorded; the stream that explains a faded receipt stops in its middle."""
        answer = super().answer(asked)
        if _explains(asked) and NEVER_EXPLAINED in str(asked.json):
            return replace(answer, hold_after=EVENTS_BEFORE_SILENCE)
        return answer


def _explains(asked: Asked) -> bool:
    return asked.path.endswith("/messages")


def environment_of(server: VendorServer) -> dict[str, str]:
    """Return the environment of a program whose vendors are ``server``."""
    own = {
        "OPENAI_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": "stand-in",
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_API_KEY": "stand-in",
        "NO_PROXY": "127.0.0.1",
        "ENVIRONMENT": "development",
    }
    others = {name: text for name, text in os.environ.items() if not OWN_SETTINGS.fullmatch(name)}
    return {"RECEIPT_USAGE_DIR": os.environ.get("RECEIPT_DEMO_DIR", str(DEMO_DIR)), **others, **own}


def missing_packages(program: Path) -> list[str]:
    """Return the SDKs that a program imports and that are not installed here."""
    return [name for name in sorted({*SDK.findall(program.read_text())}) if not find_spec(name)]


def main() -> int:
    """Run one example, or a program of the user's, with its arguments; return its exit code."""
    wanted, *arguments = sys.argv[1:] or [""]
    program = HERE / f"{wanted}.py" if wanted in EXAMPLES else Path(wanted)
    if program.suffix != ".py" or not program.is_file():
        names = " | ".join([*EXAMPLES, "FILE.py"])
        print(f"python -m examples.stand_in {names}", file=sys.stderr)
        return 2
    missing = " ".join(missing_packages(program))
    if missing:
        install = f"{sys.executable} -m pip install {missing}"
        print(f"error: {program.name} needs {missing}. Install it: {install}", file=sys.stderr)
        return 2
    with StandIn() as server:
        command = [sys.executable, str(program), *arguments]
        ended = subprocess.run(command, env=environment_of(server), check=False)  # noqa: S603
    count = len(server.requests)
    told = f"{count} request{'s' if count != 1 else ''}. What they cost: tools/demo report --by job"
    print(f"stand-in: {told}", file=sys.stderr)
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
