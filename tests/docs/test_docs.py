"""What the documentation shows is executed: commands, configuration, links."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import structlog
from PIL import Image
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

from anime_cli.main import app
from anime_cli.settings import ClientSettings, StackSettings
from anime_common import topology
from anime_echo_bridge.settings import EchoSettings
from anime_files.settings import FilesSettings
from anime_gateway.settings import GatewaySettings
from anime_generator.comfyui import faults
from anime_generator.comfyui.manifest import load_workflow
from anime_generator.comfyui.servers import load_servers
from anime_generator.engines import LOCAL
from anime_generator.registry import BUILT_IN, load_registry
from anime_generator.registry.header import read_header
from anime_generator.settings import GeneratorSettings
from anime_jobs.settings import JobsSettings
from tests.comfyui.recordings import scripts
from tests.docs.markdown import Document, documents, read
from tests.generator.published import SD15, SDXL, layout
from tests.generator.test_registry import KOHYA, write_header
from tests.stacks import ROOT, Product, ended

DOCUMENTS = documents()
README = read(ROOT / "README.md")
DOOR = "http://127.0.0.1:8328"
SETTINGS: tuple[type[BaseSettings], ...] = (
    StackSettings, ClientSettings, JobsSettings, GeneratorSettings, FilesSettings, EchoSettings, GatewaySettings,
)  # fmt: skip

on_the_stack = pytest.mark.asyncio(loop_scope="session")


def name_of(document: Document) -> str:
    return str(document.path.relative_to(ROOT))


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


@each_document
def test_what_is_linked_exists(document: Document) -> None:
    for link in document.links():
        file, _, anchor = link.partition("#")
        target = (document.path.parent / file).resolve() if file else document.path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in read(target).anchors(), link


@each_document
def test_what_make_is_told_to_make_is_a_target(document: Document) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    code = [*document.commands("make"), *(span for span in document.spans() if re.search(r"(^|\s)make\b", span))]
    for command in code:
        words = shlex.split(command)
        arguments = words[words.index("make") + 1 :]
        assert {word for word in arguments if "=" not in word} <= targets, command
        for setting in (word.partition("=")[0] for word in arguments if "=" in word):
            assert f"$({setting})" in makefile or f"export {setting}" in makefile, command


def read_text(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in folder.glob("*.py")]


@each_document
def test_the_settings_it_names_exist(document: Document) -> None:
    known = {f"ANIME_{field.upper()}" for settings in SETTINGS for field in settings.model_fields}
    known |= set(re.findall(r"ANIME_TEST_[A-Z_]+", "".join(read_text(ROOT / "tests" / "live"))))
    streams = {stream.name for stream in topology.STREAMS}
    text = "\n".join([document.prose, *(block.text for block in document.blocks)])
    for name in set(re.findall(r"\bANIME_[A-Z0-9_]+\*?", text)) - streams:
        assert name in known or (name.endswith("_*") and any(each.startswith(name[:-1]) for each in known)), name


@pytest.fixture
def runner() -> Iterator[CliRunner]:
    yield CliRunner()
    structlog.reset_defaults()


@each_document
def test_the_commands_of_anime_exist_with_their_options(document: Document, runner: CliRunner) -> None:
    """`--help` comes last: whatever stands before it has been parsed by then, and nothing is carried out."""
    for command in [*document.commands(".venv/bin/anime"), *document.commands("anime")]:
        said = runner.invoke(app, [*shlex.split(command)[1:], "--help"])
        assert said.exit_code == 0, f"{command}: {said.output}"


HEADERS: dict[str, Callable[[str], Mapping[str, tuple[int, ...]]]] = {
    "models": lambda key: layout(SDXL if key == "noob" else SD15),
    "vae": lambda _: {name: shape for name, shape in layout(SD15).items() if name.startswith("first_stage_model.")},
    "loras": lambda _: {KOHYA: (8, 768)},
    "embeddings": lambda _: {"emb_params": (8, 768)},
}


def registry_folder(folder: Path, document: Document) -> Path:
    """A folder with the document's `models.toml`, and files of the right kind wherever it says that some lie."""
    text = document.block("toml", "default = ").text.replace('"/srv/models', f'"{folder}')
    for section, tables in tomllib.loads(text).items():
        for key, table in tables.items() if isinstance(tables, dict) else ():
            for kind, file in ((section, table["source"]), ("vae", table.get("vae"))):
                if file is not None and file.endswith(".safetensors"):
                    write_header(folder / file, HEADERS[kind](key))
                elif file is not None:
                    (folder / file).symlink_to(BUILT_IN / "sprite")
    (folder / "models.toml").write_text(text)
    return folder


@pytest.mark.parametrize("name", ["README.md", "services/generator/README.md", "docs/models.md"])
def test_the_registry_it_shows_is_read(name: str, tmp_path: Path) -> None:
    folder = registry_folder(tmp_path, read(ROOT / name))
    registry = load_registry(folder / "models.toml", LOCAL)
    spec = registry.models[registry.default]
    assert (spec.default, spec.preload, spec.engine) == (True, True, "diffusers")
    assert spec.source is not None
    assert spec.source.exists()
    assert set(registry.models) >= {registry.default, "sprite"}


@pytest.mark.slow
def test_a_model_of_another_family_is_read_as_it_is_shown(tmp_path: Path) -> None:
    from tests.generator.whole_pipelines import tiny  # loads torch

    text = read(ROOT / "docs" / "models.md").block("toml", "[models.big]").text
    (tmp_path / "models.toml").write_text(text)
    tiny("sd3", tmp_path / tomllib.loads(text)["models"]["big"]["source"])
    spec = load_registry(tmp_path / "models.toml", LOCAL).models["big"]
    assert (spec.engine, spec.family, spec.defaults.sampler) == ("auto", "sd3", "euler")


def test_the_files_of_servers_it_shows_are_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("Bearer key")
    (tmp_path / "flows").mkdir()
    shown = [block.text for block in read(ROOT / "docs" / "comfyui.md").blocks if "[servers." in block.text]
    assert len(shown) == 2
    for text in shown:
        (tmp_path / "comfyui.toml").write_text(text)
        assert load_servers(tmp_path / "comfyui.toml").servers["tower"].url in text
    found = load_servers(tmp_path / "comfyui.toml")
    assert found.servers["tower"].headers == {"Authorization": "Bearer key"}
    assert found.loras["ink_v2.safetensors"].weight == 0.8


def test_the_manifest_it_shows_is_that_of_an_exported_workflow(tmp_path: Path) -> None:
    graph = {
        **scripts("a_success_cold_full")[0].graph,
        "15": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
    }
    (tmp_path / "portrait.json").write_text(json.dumps(graph))
    (tmp_path / "portrait.toml").write_text(read(ROOT / "docs" / "comfyui.md").block("toml", "outputs = ").text)
    assert load_workflow(tmp_path / "portrait.toml").honours > {"prompt", "seed", "loras", "upscale"}


def test_every_code_of_comfyui_that_there_is_stands_in_the_table() -> None:
    text = (ROOT / "docs" / "comfyui.md").read_text()
    codes = [value for name, value in vars(faults).items() if name.isupper() and isinstance(value, str)]
    assert len(codes) > 12
    assert [code for code in codes if f"`{code}`" not in text] == []


def test_the_way_out_of_pickles_works(tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": {"a": torch.ones(2), "b": torch.ones(2)[:1]}, "step": 3}, tmp_path / "model.ckpt")
    code = read(ROOT / "docs" / "models.md").block("python").text
    command = [sys.executable, "-c", code, str(tmp_path / "model.ckpt"), str(tmp_path / "model.safetensors")]
    subprocess.run(command, check=True)
    assert set(read_header(tmp_path / "model.safetensors").tensors) == {"a", "b"}


@on_the_stack
class TestCurl:
    pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the commands shown are curl's")

    def command(self, product: Product, containing: str) -> tuple[str, ...]:
        (found,) = [command for command in README.commands("curl") if containing in command]
        assert DOOR in found
        return "bash", "-c", f"exec {found.replace(DOOR, product.stack.url)}"

    async def test_makes_a_picture(self, noop: Product) -> None:
        status, out, err = await noop.run(*self.command(noop, "Prefer: wait"))
        assert status == 0, err
        job = json.loads(out)
        assert (job["state"], job["settings"]["seed"]) == ("completed", 42)
        assert noop.picture(job).is_file()

    async def test_takes_a_picture_of_your_own(self, noop: Product) -> None:
        sketch = noop.home / "sketch.png"
        Image.new("RGB", (64, 48), "teal").save(sketch)
        status, out, err = await noop.run(*self.command(noop, "/uploads"))
        assert status == 0, err
        file = json.loads(out)
        assert (noop.artifacts / file["key"]).read_bytes() == sketch.read_bytes()

    async def test_hears_everything_as_it_happens(self, noop: Product) -> None:
        curl = await noop.start(*self.command(noop, "/events"))
        assert curl.stdout is not None
        event: dict[str, str] = {}
        async with asyncio.timeout(30):
            while not (line := (await curl.stdout.readline()).decode()).isspace() or "data" not in event:
                assert line, "the stream ended"
                field, _, value = line.strip().partition(":")
                event[field] = value.strip()
        curl.terminate()
        await ended(curl)
        assert event["event"] == "snapshot"
        assert event["id"]
        assert "jobs" in json.loads(event["data"])


@on_the_stack
@pytest.mark.parametrize("name", ["README.md", "docs/first-picture.md"])
async def test_the_commands_of_anime_do_what_they_say(noop: Product, name: str) -> None:
    commands = read(ROOT / name).commands(".venv/bin/anime")
    assert commands
    said = {}
    for command in commands:
        status, out, err = await noop.anime(*shlex.split(command)[1:])
        assert status == 0, f"{command}: {out}{err}"
        said[shlex.split(command)[1]] = out
    places = re.findall(r"^picture: (.+)$", said["generate"], re.MULTILINE)
    assert places
    assert all(Path(place).is_file() for place in places)
    assert said["generate"].split()[0] in said["jobs"]
