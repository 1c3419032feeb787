"""Run an example without a key: a server on this machine answers for OpenAI and Anthropic.

    python -m examples.stand_in labeling_openai

The server speaks the vendors' protocols and answers with recorded replies: their usage is real,
their texts are made up here. The examples find it by the variables that the vendors' SDKs read
themselves, so they run unchanged. What they record goes to ``.demo/examples``, or where
``RECEIPT_USAGE_DIR`` says; never to a table.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tests.support.vendor_server import Answer, Asked, VendorServer

HERE = Path(__file__).parent
EXAMPLES = sorted(path.stem for path in HERE.glob("*.py") if path.name != Path(__file__).name)
USAGE_DIR = HERE.parent / ".demo" / "examples"
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
    tables = ("DYNAMODB_TABLE_NAME", "DYNAMO_TABLE_NAME")
    others = {name: value for name, value in os.environ.items() if name not in tables}
    return {"RECEIPT_USAGE_DIR": str(USAGE_DIR), **others, **own}


def main() -> int:
    """Run one example with its arguments; return its exit code."""
    if len(sys.argv) < 2 or sys.argv[1] not in EXAMPLES:  # noqa: PLR2004 - program, example
        print(f"python -m examples.stand_in {' | '.join(EXAMPLES)}", file=sys.stderr)
        return 2
    name, *arguments = sys.argv[1:]
    with StandIn() as server:
        environment = environment_of(server)
        command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
        ended = subprocess.run(command, env=environment, check=False)  # noqa: S603 - our own
    directory = environment["RECEIPT_USAGE_DIR"]
    print(f"stand-in: {len(server.requests)} requests; records in {directory}", file=sys.stderr)
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
