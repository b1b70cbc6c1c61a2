"""`anime models`: what can be drawn with, and the file that says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from anime_cli import generator_registry, registry_file, render
from anime_cli.api import connect
from anime_cli.errors import CliError, ExitStatus
from anime_cli.options import Json, Url, reported, run, show_json
from anime_cli.settings import ClientSettings
from anime_common.contracts.jobs import Catalogue, CatalogueEntry
from anime_common.contracts.vocabulary import ModelInfo, Preset
from anime_common.keys import key_for
from anime_common.settings import load

app = typer.Typer(help="Models, LoRAs and embeddings: what there is, and the registry file that names them.")

Key = Annotated[str, typer.Argument(help="Key of the model.", show_default=False)]
File = Annotated[Path, typer.Argument(help="A .safetensors file, or a diffusers folder.", show_default=False)]
Registry = Annotated[
    Path | None,
    typer.Option("--models", help="The registry file; default: ANIME_MODELS, else models.toml in ANIME_HOME."),
]
SECTIONS = {"checkpoint": "models", "lora": "loras", "embedding": "embeddings"}


@app.callback(invoke_without_command=True)
def models(context: typer.Context, *, url: Url = None, as_json: Json = False) -> None:
    """Show the models that generators can run; see also the commands below."""
    if context.invoked_subcommand is None:
        _list(url, as_json=as_json)


@app.command("list")
def list_models(*, url: Url = None, as_json: Json = False) -> None:
    """Show the models that generators can run, with their defaults."""
    _list(url, as_json=as_json)


@app.command()
def show(key: Key, *, url: Url = None, as_json: Json = False) -> None:
    """Show a model with its presets, LoRAs and embeddings."""
    found = run(_model(key, url), as_json=as_json)
    if as_json:
        show_json(found)
    else:
        _show(found)


@app.command()
def check(*, models: Registry = None, as_json: Json = False) -> None:
    """Look at every file that the registry names, without loading one; exit status 1 when something is wrong."""
    with reported(as_json=as_json):
        found = generator_registry.check(models or load(ClientSettings).existing_registry())
    if as_json:
        items = [
            {name: getattr(item, name) for name in generator_registry.Item.__dataclass_fields__} for item in found.items
        ]
        show_json({"ok": not found.problems, "file": found.file, "items": items, "problems": found.problems})
    else:
        _show_checked(found)
    if found.problems:
        raise typer.Exit(ExitStatus.FAILED)


@app.command()
def add(
    file: File,
    *,
    key: Annotated[str | None, typer.Option(help="Its key; default: from the file's name.")] = None,
    family: Annotated[str, typer.Option(help="Its family, when the file does not tell.")] = "",
    title: Annotated[str, typer.Option(help="A name for people.")] = "",
    licence: Annotated[str, typer.Option(help="A note on its terms.")] = "",
    trigger_word: Annotated[list[str] | None, typer.Option(help="A LoRA's trigger word; may be repeated.")] = None,
    weight: Annotated[float | None, typer.Option(help="A LoRA's default weight.", min=-4, max=4)] = None,
    vae: Annotated[Path | None, typer.Option(help="Another autoencoder for a checkpoint.")] = None,
    config: Annotated[Path | None, typer.Option(help="A checkpoint's configuration, a diffusers folder.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Make it the default model.")] = False,
    models: Registry = None,
    as_json: Json = False,
) -> None:
    """Write an entry for a model file into the registry, with what its header tells; weights are not read."""
    said: dict[str, Any] = {"title": title, "licence": licence, "trigger_words": trigger_word, "weight": weight}
    said |= {"vae": vae, "config": config}
    with reported(as_json=as_json):
        seen = _inspected(file, family)
        section = _section(seen, file, default=default)
        target = _file_of(models)
        chosen = registry_file.check_key(key) if key else key_for(file.name)
        entry = _entry(section, seen, registry_file.place_of(file, target), said, target)
        registry_file.add(target, section, chosen, entry, default=default, accept=lambda draft: _accept(draft, chosen))
    if as_json:
        show_json({"file": str(target), "section": section, "key": chosen, "entry": entry})
        return
    render.console().print(f"{target}: added [{section}.{chosen}], family {seen['family']}", soft_wrap=True)
    render.console().print("a generator that uses this file takes it within seconds; so does the next start")


def _list(url: str | None, *, as_json: bool) -> None:
    async def work() -> Catalogue:
        async with connect(url) as api:
            return await api.get("/models", Catalogue)

    found = run(work(), as_json=as_json)
    if as_json:
        show_json(found)
        return
    rows = [
        (
            f"{entry.model.key} (default)" if entry.model.default else entry.model.key,
            entry.model.engine,
            entry.model.family,
            f"{entry.model.width}x{entry.model.height}, {entry.model.steps} steps",
            ", ".join(preset.name for preset in entry.model.presets),
            ", ".join(entry.workers) or "none now",
            "yes" if entry.resident else "",
            entry.model.title,
        )
        for entry in found.items
    ]
    columns = ("model", "engine", "family", "defaults", "presets", "generators", "loaded", "title")
    render.table(columns, rows, "no generator has announced a model yet")


async def _model(key: str, url: str | None) -> CatalogueEntry:
    async with connect(url) as api:
        found = await api.get("/models", Catalogue)
    for entry in found.items:
        if entry.model.key == key:
            return entry
    known = ", ".join(entry.model.key for entry in found.items) or "none"
    raise CliError(ExitStatus.NOT_FOUND, f"no generator has announced the model {key!r}; there is: {known}")


def _show(entry: CatalogueEntry) -> None:
    info = entry.model
    render.fields(
        [
            ("model", f"{info.key} (default)" if info.default else info.key),
            ("title", info.title),
            ("family", info.family),
            ("engine", info.engine),
            ("licence", info.licence),
            ("files", render.size(info.size) if info.size else None),
            ("memory", f"about {render.size(info.memory)}" if info.memory else None),
            ("defaults", _defaults(info)),
            ("negative", info.negative_prompt),
            ("sizes", str(info.sizes)),
            ("samplers", ", ".join(info.samplers)),
            ("upscalers", ", ".join(info.upscalers)),
            ("knows", ", ".join(info.tags)),
            ("fallback", info.fallback),
            ("generators", ", ".join(entry.workers) or "none now"),
            ("loaded on", ", ".join(entry.resident)),
        ]
    )
    _table(("preset", "settings", "title"), [(each.name, _settings(each), each.title) for each in info.presets])
    loras = [
        (each.key, f"{each.weight:g}", ", ".join(each.trigger_words), each.licence, each.title) for each in info.loras
    ]
    _table(("lora", "weight", "trigger words", "licence", "title"), loras)
    _table(("embedding", "licence", "title"), [(each.key, each.licence, each.title) for each in info.embeddings])


def _defaults(info: ModelInfo) -> str:
    return f"{info.width}x{info.height}, {info.steps} steps, guidance {info.guidance:g}, {info.sampler.value}"


def _settings(preset: Preset) -> str:
    said = [
        f"{preset.steps} steps" if preset.steps is not None else "",
        f"guidance {preset.guidance:g}" if preset.guidance is not None else "",
        preset.sampler.value if preset.sampler is not None else "",
        *(f"{use.key} at {use.weight:g}" for use in preset.loras),
    ]
    return ", ".join(filter(None, said))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        render.console().print()
        render.table(columns, rows, "")


def _show_checked(found: generator_registry.Checked) -> None:
    rows = [
        (
            f"{item.section}.{item.key}" + (f" ({item.part})" if item.part else ""),
            item.kind,
            item.family,
            item.dtype,
            render.size(item.size),
            "wrong" if item.problems else "ok",
            item.path,
        )
        for item in found.items
    ]
    render.table(("entry", "kind", "family", "type", "size", "", "file"), rows, "nothing can be looked at")
    for problem in found.problems:
        render.console().print(f"wrong: {problem}", soft_wrap=True)
    summary = f"\n{found.file}: " + (f"{len(found.problems)} to mend" if found.problems else "all is well")
    render.console().print(summary, soft_wrap=True)


def _file_of(models: Path | None) -> Path:
    return models or load(ClientSettings).registry()


def _inspected(file: Path, family: str) -> dict[str, Any]:
    seen = generator_registry.inspect(file, family)
    if seen["problems"]:
        raise CliError(ExitStatus.USAGE, *seen["problems"])
    return seen


def _section(seen: dict[str, Any], file: Path, *, default: bool) -> str:
    section = SECTIONS.get(seen["kind"])
    if section is None:
        hint = ": name it in a model's entry with vae =" if seen["kind"] == "vae" else ""
        raise CliError(ExitStatus.USAGE, f"{file} is of the kind {seen['kind']}, which has no entry of its own{hint}")
    if default and section != "models":
        raise CliError(ExitStatus.USAGE, f"--default is for checkpoints; {file.name} is of the kind {seen['kind']}")
    return section


def _entry(section: str, seen: dict[str, Any], source: str, said: dict[str, Any], target: Path) -> dict[str, Any]:
    """The table for a file: what was said, else what its header tells."""
    entry: dict[str, Any] = {"source": source, "family": seen["family"]}
    for name in ("title", "licence"):
        if text := said[name] or seen[name]:
            entry[name] = text
    if section == "loras":
        if words := said["trigger_words"] or seen["trigger_words"]:
            entry["trigger_words"] = words
        if said["weight"] is not None:
            entry["weight"] = said["weight"]
    if section == "models":
        places = {name: said[name] for name in ("config", "vae") if said[name] is not None}
        entry |= {name: registry_file.place_of(path, target) for name, path in places.items()}
        entry |= seen["entry"]
    return entry


def _accept(draft: Path, key: str) -> None:
    """Refuse an entry that is wrong; mistakes that were there before are not its fault."""
    found = generator_registry.check(draft)
    mine = [problem for problem in found.problems if f".{key}." in problem or f".{key}:" in problem]
    if mine:
        raise CliError(ExitStatus.USAGE, *mine)
