"""Which files of a prompt are what the job asked for. Pure.

A server whose inputs have not changed answers with the file that another prompt wrote. Every attempt therefore writes
under a prefix of its own, and what does not lie under it is not taken.
"""

from __future__ import annotations

from uuid import UUID

from anime_generator.comfyui import faults
from anime_generator.comfyui.records import File, Prompt
from anime_generator.engines.protocol import EngineError

FOLDER = "tower"
"""Below the server's output folder: where all files of ours lie."""


def prefix_of(attempt_id: UUID, index: int) -> str:
    """What the names of the files of a picture begin with."""
    return f"{FOLDER}/{attempt_id}/{index:02d}"


def files_of(prompt: Prompt, nodes: frozenset[str], prefix: str) -> tuple[File, ...]:
    """The files that these nodes wrote, in their order; raises EngineError when there is none, or one of another job.

    Files that a server keeps for its editor alone (`temp`) do not count where a node has written proper ones.
    """
    found = [file for file in prompt.files if file.node in nodes]
    proper = [file for file in found if file.place == "output"] or found
    if not proper:
        names = ", ".join(sorted(nodes))
        text = f"the workflow ended without a file of its nodes {names}: are they switched off, or all muted?"
        raise EngineError(faults.NO_OUTPUT, text)
    folder, _, name = prefix.rpartition("/")
    for file in proper:
        where = file.subfolder.replace("\\", "/").strip("/")
        if file.place == "output" and (where != folder or not file.name.startswith(name)):
            text = f"node {file.node} wrote {file.name!r}, which does not begin with the prefix of this attempt"
            raise EngineError(faults.FOREIGN_OUTPUT, f"{text}: has it a filename_prefix?")
    return tuple(proper)
