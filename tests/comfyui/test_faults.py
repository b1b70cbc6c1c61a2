"""What newer servers than the recorded one say of what they refuse, as they said it (0.33.0)."""

from __future__ import annotations

from typing import Any

import pytest

from anime_generator.comfyui import faults

ODD: dict[str, Any] = {
    "error": {
        "type": "missing_node_type",
        "message": "Node 'Odd' not found. The custom node may not be installed.",
        "details": "Node ID '#1'",
        "extra_info": {"node_id": "1", "class_type": "NoSuchNode", "node_title": "Odd"},
    },
    "node_errors": {},
}


def test_a_missing_node_is_named_with_its_class() -> None:
    error = faults.refused(ODD, 400, {})
    assert (error.code, error.retryable) == (faults.NODE_MISSING, False)
    assert "Node 'Odd' not found" in error.message
    assert "(NoSuchNode)" in error.message


@pytest.mark.parametrize("kind", ["prompt_no_outputs", "something_new", None])
def test_what_is_not_known_is_a_workflow_that_is_wrong(kind: str | None) -> None:
    error = faults.refused({"error": {"type": kind, "message": "Prompt has no outputs"}}, 400, {})
    assert (error.code, error.message) == (faults.WORKFLOW_INVALID, "Prompt has no outputs")
