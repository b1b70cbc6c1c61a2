"""`anime models`: what is announced, and the owner's registry file."""

from __future__ import annotations

import functools
import json
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from anime_cli import api, generator_registry, registry_file, remote_checks
from anime_cli.findings import Verdict, patient
from anime_cli.parts import Parts
from anime_cli.services import SERVICES
from anime_cli.settings import ClientSettings, StackSettings
from anime_common.contracts.jobs import Catalogue, Workers
from anime_common.examples import example
from anime_common.keys import key_for
from tests.cli.conftest import Anime
from tests.cli.fake_gateway import URL, FakeGateway
from tests.generator.published import SD15, SDXL, layout
from tests.generator.test_registry import KOHYA, lora, write_header

CATALOGUE: dict[str, Any] = {
    "items": [
        {
            "model": {
                **json.loads(example(Catalogue).model_dump_json())["items"][0]["model"],
                "key": "counterfeit",
                "family": "sd15",
                "licence": "CreativeML Open RAIL-M",
                "size": 2_132_626_066,
                "presets": [{"name": "fast", "steps": 6, "guidance": 1.5, "loras": [{"key": "lcm", "weight": 0.8}]}],
                "loras": [{"key": "ink", "trigger_words": ["ink style"], "weight": 0.7, "licence": "CC BY"}],
                "embeddings": [{"key": "easy-negative"}],
            },
            "workers": ["tower"],
            "resident": [],
        }
    ]
}


@pytest.fixture
def registry(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home.mkdir()
    file = home / "models.toml"
    file.write_text('# mine\n\n[models.sprite] # built in\ntitle = "Sprite!" # short\n')
    return file


def checkpoint(folder: Path, name: str = "Counterfeit V3.safetensors", **metadata: str) -> Path:
    return write_header(folder / name, layout(SD15), **metadata)


class TestShown:
    @pytest.mark.parametrize("arguments", [(), ("list",)])
    def test_a_line_a_model(self, gateway: FakeGateway, anime: Anime, arguments: tuple[str, ...]) -> None:
        gateway.on("GET /models", httpx.Response(200, json=CATALOGUE))
        shown = anime("models", *arguments)
        assert shown.exit_code == 0
        assert "counterfeit" in shown.stdout
        assert "fast" in shown.stdout

    def test_all_of_one(self, gateway: FakeGateway, anime: Anime) -> None:
        gateway.on("GET /models", httpx.Response(200, json=CATALOGUE))
        text = anime("models", "show", "counterfeit").stdout
        for piece in ("CreativeML", "2.0 GiB", "6 steps, guidance 1.5, lcm at 0.8", "ink style", "easy-negative"):
            assert piece in text

    def test_one_that_nobody_has(self, gateway: FakeGateway, anime: Anime) -> None:
        gateway.on("GET /models", httpx.Response(200, json=CATALOGUE))
        shown = anime("models", "show", "other")
        assert shown.exit_code == 4
        assert "there is: counterfeit" in shown.stderr


class TestCheck:
    def test_without_a_file_of_ones_own(self, home: Path, anime: Anime) -> None:
        shown = anime("models", "check")
        assert shown.exit_code == 0
        assert "models.sprite" in shown.stdout
        assert "all is well" in shown.stdout

    def test_names_what_is_wrong(self, registry: Path, anime: Anime) -> None:
        torn = checkpoint(registry.parent)
        with torn.open("r+b") as file:
            file.truncate(2_000_000)
        registry.write_text(
            f'[models.mine]\nsource = "{torn.name}"\ndefaults = {{ width = 512, height = 512, steps = 20 }}\n'
        )
        shown = anime("models", "check", "--json")
        found = json.loads(shown.stdout)
        assert (shown.exit_code, found["ok"]) == (1, False)
        assert found["problems"][0].startswith("models.mine.source: Counterfeit V3.safetensors is cut off")
        (wrong,) = [item for item in found["items"] if item["problems"]]
        assert wrong["key"] == "mine"
        assert "wrong: models.mine.source" in anime("models", "check").stdout

    def test_a_file_that_was_named_must_be_there(self, home: Path, anime: Anime) -> None:
        shown = anime("models", "check", "--models", str(home / "absent.toml"))
        assert shown.exit_code == 1
        assert "cannot be read" in shown.stdout

    def test_where_no_generator_is(self, home: Path, anime: Anime, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(generator_registry, "installed", lambda: False)
        shown = anime("models", "check")
        assert shown.exit_code == 3
        assert "the generator is not installed here" in shown.stderr


class TestAdd:
    def test_writes_what_the_header_tells_and_keeps_what_stood_there(self, registry: Path, anime: Anime) -> None:
        before = registry.read_text()
        file = checkpoint(registry.parent, **{"modelspec.title": "Counterfeit", "modelspec.license": "OpenRAIL"})
        shown = anime("models", "add", str(file))
        assert shown.exit_code == 0, shown.stderr
        assert "[models.counterfeit-v3], family sd15" in shown.stdout
        text = registry.read_text()
        assert text.startswith(before)
        entry = tomllib.loads(text)["models"]["counterfeit-v3"]
        assert (entry["source"], entry["family"], entry["engine"]) == (file.name, "sd15", "diffusers")
        assert (entry["title"], entry["licence"]) == ("Counterfeit", "OpenRAIL")
        assert (entry["defaults"]["width"], entry["sizes"]["maximum"]) == (512, 1024)
        assert 2000 < entry["memory_mb"] < 2100  # 1.07 thousand million parameters in half precision
        assert anime("models", "check").exit_code == 0

    def test_a_v_prediction_checkpoint_of_sdxl(self, registry: Path, anime: Anime) -> None:
        file = write_header(registry.parent / "noob.safetensors", layout(SDXL) | {"v_pred": (0,), "ztsnr": (0,)})
        assert anime("models", "add", str(file), "--default", "--title", "Noob").exit_code == 0
        tables = tomllib.loads(registry.read_text())
        entry = tables["models"]["noob"]
        assert tables["default"] == "noob"
        assert (entry["prediction"], entry["zero_terminal_snr"], entry["defaults"]["width"]) == (
            "v_prediction",
            True,
            1024,
        )
        assert "# built in" in registry.read_text()
        assert "# mine" in registry.read_text()

    def test_a_lora_with_its_words(self, registry: Path, anime: Anime) -> None:
        file = lora(registry.parent, "Ink Style.safetensors")
        words = ("--trigger-word", "ink style", "--trigger-word", "hatching")
        shown = anime(
            "models", "add", str(file), "--key", "ink", *words, "--weight", "0.7", "--licence", "CC BY", "--json"
        )
        assert json.loads(shown.stdout)["section"] == "loras"
        assert tomllib.loads(registry.read_text())["loras"]["ink"] == {
            "source": "Ink Style.safetensors",
            "family": "sd15",
            "licence": "CC BY",
            "trigger_words": ["ink style", "hatching"],
            "weight": 0.7,
        }

    def test_an_embedding_from_elsewhere(self, registry: Path, anime: Anime, tmp_path: Path) -> None:
        file = write_header(tmp_path / "easynegative.safetensors", {"emb_params": (8, 768)})
        assert anime("models", "add", str(file)).exit_code == 0
        assert tomllib.loads(registry.read_text())["embeddings"]["easynegative"]["source"] == str(file)

    def test_the_first_one_makes_the_file(self, home: Path, anime: Anime, tmp_path: Path) -> None:
        assert anime("models", "add", str(lora(tmp_path))).exit_code == 0
        assert (home / "models.toml").read_text().startswith("# Your own models")

    def test_into_a_file_that_is_named(self, home: Path, anime: Anime, tmp_path: Path) -> None:
        lora(tmp_path)
        target = tmp_path / "mine.toml"
        assert anime("models", "add", str(tmp_path / "style.safetensors"), "--models", str(target)).exit_code == 0
        assert tomllib.loads(target.read_text())["loras"]["style"]["source"] == "style.safetensors"

    @pytest.mark.parametrize(
        ("arguments", "status", "says"),
        [
            (("model.ckpt",), 2, "pickles can run code"),
            (("absent.safetensors",), 2, "does not exist"),
            (("torn.safetensors",), 2, "is no safetensors file"),
            (("vae.safetensors",), 2, "name it in a model's entry with vae ="),
            (("plain.safetensors",), 2, "does not tell its family: say which of sd15"),
            (("style.safetensors", "--family", "sdxl"), 2, "the file is of the family sd15, not sdxl"),
            (("style.safetensors", "--key", "My Key"), 2, "keys are made of small letters"),
            (("style.safetensors", "--default"), 2, "--default is for checkpoints"),
            (("style.safetensors", "--key", "taken"), 5, "has [loras.taken] already"),
        ],
    )
    def test_what_cannot_be_added_leaves_the_file_alone(
        self, registry: Path, anime: Anime, arguments: tuple[str, ...], status: int, says: str
    ) -> None:
        folder = registry.parent
        (folder / "model.ckpt").touch()
        (folder / "torn.safetensors").touch()
        vae = {name: shape for name, shape in layout(SD15).items() if name.startswith("first_stage_model.")}
        write_header(folder / "vae.safetensors", vae)
        write_header(folder / "plain.safetensors", {KOHYA.replace("attn2", "attn1"): (8, 320)})
        lora(folder)
        registry.write_text(registry.read_text() + '[loras.taken]\nsource = "style.safetensors"\n')
        before = registry.read_text()
        shown = anime("models", "add", str(folder / arguments[0]), *arguments[1:])
        assert shown.exit_code == status
        assert says in shown.stderr
        assert registry.read_text() == before
        assert not list(folder.glob(".models-*"))

    def test_mistakes_that_were_there_before_do_not_stand_in_the_way(self, registry: Path, anime: Anime) -> None:
        registry.write_text('[loras.lost]\nsource = "lost.safetensors"\n')
        assert anime("models", "add", str(lora(registry.parent))).exit_code == 0
        assert set(tomllib.loads(registry.read_text())["loras"]) == {"lost", "style"}

    def test_a_file_that_is_no_toml_is_left_alone(self, registry: Path, anime: Anime) -> None:
        registry.write_text("models = [")
        shown = anime("models", "add", str(lora(registry.parent)))
        assert (shown.exit_code, registry.read_text()) == (2, "models = [")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Counterfeit V3.0 (fp16).safetensors", "counterfeit-v3.0-fp16"),
        ("ink_style.safetensors", "ink_style"),
        ("ねこ.safetensors", "model"),
    ],
)
def test_keys_are_made_of_file_names(name: str, key: str) -> None:
    assert key_for(name) == key
    assert registry_file.check_key(key) == key


class TestTheStacksOwnFile:
    def environment(self, home: Path, **extra: str) -> dict[str, str]:
        parts = Parts(StackSettings(home=home))
        parts.choose_ports()
        (generator,) = [service for service in SERVICES if service.name == "generator"]
        return parts.environment(generator, extra)

    def test_lies_in_its_home_from_the_start_on(self, home: Path) -> None:
        assert self.environment(home)["ANIME_MODELS"] == str(home / "models.toml")
        assert tomllib.loads((home / "models.toml").read_text()) == {}

    def test_is_left_as_it_is(self, registry: Path) -> None:
        before = registry.read_text()
        assert self.environment(registry.parent)["ANIME_MODELS"] == str(registry)
        assert registry.read_text() == before

    def test_gives_way_to_one_that_is_set(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANIME_MODELS", "/srv/models.toml")
        assert self.environment(home)["ANIME_MODELS"] == "/srv/models.toml"
        assert self.environment(home, ANIME_MODELS="/mine.toml")["ANIME_MODELS"] == "/mine.toml"
        assert not (home / "models.toml").exists()


async def test_the_doctor_passes_on_what_generators_warn_of(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = json.loads(example(Workers).model_dump_json())
    found["items"][0]["heartbeat"]["warnings"] = ["the registry of models is not in force as it stands: speed"]
    gateway = FakeGateway().on("GET /generators", httpx.Response(200, json=found))
    monkeypatch.setattr(remote_checks, "connect", functools.partial(api.connect, transport=gateway.transport))
    who = patient(StackSettings(home=home), ClientSettings(home=home), URL)
    first, *_ = await remote_checks.generators(who)
    assert (first.verdict, first.detail) == (
        Verdict.WRONG,
        "the registry of models is not in force as it stands: speed",
    )
