"""docs/contexts.md: its examples run as they stand, one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "contexts.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_run_as_they_stand() -> None:
    """What a reader copies works, and its assertions hold; each call is counted once."""
    names: dict[str, Any] = {}
    for number, example in enumerate(EXAMPLES, 1):
        exec(compile(example, f"{PAGE.name}, example {number}", "exec"), names)  # noqa: S102
    with names["tracker"] as tracker:
        metrics = [metric for metric in tracker.client.query() if metric.api_calls]
    assert len(EXAMPLES) == 9
    assert len(metrics) == 12
    assert {metric.service for metric in metrics} == {"openai"}
    jobs = [metric.metadata.get("operation_type") for metric in metrics if metric.job_id]
    assert sorted(jobs) == ["batch_processing", *["label"] * 3, "label_batch", "read"]
