"""`anime compose`: what would be drawn for a prompt, without drawing it."""

from __future__ import annotations

from anime_cli import render
from anime_cli.api import connect, read
from anime_cli.generate import Characters, ModelKey, Negative, Project, Prompt, Scene, character_of
from anime_cli.options import Json, Url, given, run, show_json
from anime_common.contracts.generator import TokenCount
from anime_common.contracts.jobs import PromptPreview


def compose(
    prompt: Prompt,
    *,
    project: Project = None,
    character: Characters = None,
    scene: Scene = None,
    model: ModelKey = None,
    negative: Negative = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what a prompt becomes: with its project and characters, its length, and what gives way to what."""
    fields = given(prompt=prompt, project=project, scene=scene, model=model, negative_prompt=negative)

    async def work() -> PromptPreview:
        body = fields | ({"characters": [character_of(each) for each in character]} if character else {})
        async with connect(url) as api:
            return read(await api.send("POST", "/prompts/preview", json=body), PromptPreview)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    length = found.length
    render.fields(
        [
            ("prompt", found.composition.prompt),
            ("", _length(length.prompt)),
            ("negative", found.composition.negative_prompt),
            ("", _length(length.negative_prompt) if found.composition.negative_prompt else ""),
            ("tokens", f"counted by {length.tokenizer}" if length.tokenizer else length.unknown),
            ("model", f"{found.settings.model}, {found.settings.width}×{found.settings.height}"),
            ("characters", ", ".join(f"{each.slug} (version {each.version})" for each in found.composition.characters)),
        ]
    )
    for part in found.composition.parts:
        side = "−" if part.side == "negative" else "+"
        whose = part.character or part.source.value
        render.console().print(f"  {side} {whose}: {render.one_line(part.text, 100)}", soft_wrap=True, markup=False)
    for warning in found.warnings:
        render.console().print(f"warning: {warning}", soft_wrap=True, markup=False)


def _length(count: TokenCount | None) -> str:
    """How long a prompt is, and how it falls into windows."""
    if count is None:
        return ""
    if not count.window:
        return f"{count.tokens} tokens"
    if len(count.windows) < 2:
        return f"{count.tokens} of {count.window} tokens"
    windows = " + ".join(map(str, count.windows))
    return f"{count.tokens} tokens in {len(count.windows)} windows of {count.window}: {windows}"
