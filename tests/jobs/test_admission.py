"""What a request becomes: its own settings over its preset over the model's, or a refusal that names the field."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from anime_common.contracts.characters import Canon, CharacterLora, Figure, SeedMode, SeedPolicy
from anime_common.contracts.generation import GenerationRequest, Hires, LoraRequest, Upscale
from anime_common.contracts.projects import ProjectStyle
from anime_common.contracts.vocabulary import LoraInfo, LoraUse, ModelInfo, Preset, Sampler, SizeLimits
from anime_common.messages import uuid7
from anime_common.outcomes import Refused
from anime_jobs.admission import PLAIN_UPSCALER, STRENGTH, Resolved, request_hash, resolve, seed_for
from anime_jobs.composition import Member, Production, compose

PICTURE = uuid7()
INK = LoraInfo(key="ink", trigger_words=("ink style",), weight=0.8)
LCM = LoraInfo(key="lcm")
MODEL = ModelInfo(
    key="counterfeit",
    engine="diffusers",
    width=512,
    height=768,
    steps=25,
    guidance=7.0,
    guidance_rescale=0.2,
    clip_skip=2,
    sampler=Sampler.EULER_A,
    negative_prompt="lowres",
    sizes=SizeLimits(minimum=256, maximum=1024, multiple=64),
    max_steps=60,
    samplers=(Sampler.EULER_A, Sampler.LCM),
    presets=(
        Preset(name="fast", steps=6, guidance=1.5, sampler=Sampler.LCM, loras=(LoraUse(key="lcm", weight=1.0),)),
        Preset(name="inked", clip_skip=1, guidance_rescale=0.0, loras=(LoraUse(key="ink", weight=0.3),)),
    ),
    loras=(INK, LCM),
    upscalers=("waifu", "lanczos"),
)


def resolved(
    model: ModelInfo = MODEL, /, style: dict[str, Any] | None = None, cast: tuple[Member, ...] = (), **asked: Any
) -> Resolved:
    request = GenerationRequest(**({"prompt": "1girl, ink style"} | asked))
    production = Production(style=ProjectStyle.model_validate(style or {}), cast=cast)
    return resolve(request, model, production, request.prompt, request.negative_prompt, 7)


def refusal(model: ModelInfo = MODEL, /, **asked: Any) -> tuple[str, str | None, str]:
    with pytest.raises(Refused) as raised:
        resolved(model, **asked)
    assert raised.value.status == 422
    return raised.value.code, raised.value.field, raised.value.message


def test_what_is_left_out_comes_from_the_model() -> None:
    found = resolved().settings
    assert (found.width, found.height, found.steps, found.guidance) == (512, 768, 25, 7.0)
    assert (found.sampler, found.clip_skip, found.guidance_rescale) == (Sampler.EULER_A, 2, 0.2)
    assert (found.negative_prompt, found.loras, found.strength) == ("lowres", (), None)
    assert found.final_size() == (512, 768)


def test_a_preset_goes_before_the_model_and_the_request_before_the_preset() -> None:
    fast = resolved(preset="fast").settings
    assert (fast.steps, fast.guidance, fast.sampler, fast.clip_skip) == (6, 1.5, Sampler.LCM, 2)
    assert fast.loras == (LoraUse(key="lcm", weight=1.0),)
    assert (
        resolved(preset="fast", steps=8, guidance=0.0).settings.model_copy(update={"steps": 6, "guidance": 1.5}) == fast
    )
    inked = resolved(preset="inked").settings
    assert (inked.clip_skip, inked.guidance_rescale) == (1, 0.0)


def test_jobs_that_differ_in_the_name_of_the_preset_alone_can_share_a_pass() -> None:
    named = resolved(preset="fast").settings
    spelled = resolved(steps=6, guidance=1.5, sampler="lcm", loras=[{"key": "lcm"}]).settings
    assert named.batch_key() == spelled.batch_key()
    assert named.batch_key() != resolved(preset="fast", clip_skip=1).settings.batch_key()


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    code, field, message = refusal(preset="slow")
    assert (code, field) == ("invalid", "preset")
    assert "fast, inked" in message


def test_loras_have_a_weight_of_their_own_and_add_to_those_of_the_preset() -> None:
    assert resolved(loras=[LoraRequest(key="ink")]).settings.loras == (LoraUse(key="ink", weight=0.8),)
    both = resolved(preset="inked", loras=[{"key": "lcm", "weight": -0.5}]).settings.loras
    assert both == (LoraUse(key="ink", weight=0.3), LoraUse(key="lcm", weight=-0.5))
    assert resolved(preset="inked", loras=[{"key": "ink", "weight": 1.0}]).settings.loras[0].weight == 1.0


def test_the_order_in_which_loras_are_named_changes_nothing() -> None:
    one, other = ([{"key": "ink"}, {"key": "lcm"}][::step] for step in (1, -1))
    assert resolved(loras=one).settings == resolved(loras=other).settings


def test_a_lora_that_does_not_fit_the_model_is_refused_with_those_that_do() -> None:
    code, field, message = refusal(loras=[{"key": "ink"}, {"key": "oil"}])
    assert (code, field) == ("unknown_lora", "loras.1.key")
    assert "there is: ink, lcm" in message


def test_a_prompt_without_the_words_of_a_lora_is_said() -> None:
    assert resolved(loras=[{"key": "ink"}]).warnings == ()
    (warning,) = resolved(prompt="1girl", loras=[{"key": "ink"}]).warnings
    assert warning == "loras.ink: the prompt has none of its words: ink style"


def test_a_size_is_rounded_to_what_the_model_draws_and_that_is_said() -> None:
    found = resolved(width=500, height=770)
    assert (found.settings.width, found.settings.height) == (512, 768)
    assert found.warnings == (
        "width: 500 became 512, since counterfeit draws multiples of 64 pixels",
        "height: 770 became 768, since counterfeit draws multiples of 64 pixels",
    )


@pytest.mark.parametrize(("field", "value"), [("width", 1100), ("height", 200)])
def test_a_size_that_the_model_does_not_draw_is_refused(field: str, value: int) -> None:
    asked: dict[str, Any] = {field: value}
    code, at, message = refusal(**asked)
    assert (code, at) == ("invalid", field)
    assert "sides of 256 to 1024 pixels in steps of 64" in message


def test_a_picture_to_begin_with_has_a_usual_strength() -> None:
    assert resolved(init_image=PICTURE).settings.strength == STRENGTH
    found = resolved(init_image=PICTURE, mask=PICTURE, strength=0.9).settings
    assert (found.init_image, found.mask, found.strength) == (PICTURE, PICTURE, 0.9)


def test_strength_nothing_only_enlarges() -> None:
    assert resolved(init_image=PICTURE, strength=0.0, upscale={}).settings.strength == 0
    more: dict[str, Any] = {"mask": PICTURE, "upscale": Upscale()}
    for asked in ({}, more):
        assert refusal(init_image=PICTURE, strength=0.0, **asked)[:2] == ("invalid", "strength")


def test_a_second_pass_is_settled_in_pixels() -> None:
    found = resolved(hires=Hires(scale=1.5)).settings
    assert found.hires is not None
    assert (found.hires.width, found.hires.height, found.hires.steps) == (768, 1152, 25)
    assert found.hires.upscaler == PLAIN_UPSCALER
    assert found.final_size() == (768, 1152)


def test_finished_pictures_are_enlarged_by_the_best_upscaler_there_is() -> None:
    found = resolved(upscale=Upscale(factor=2.0)).settings
    assert found.upscale is not None
    assert found.upscale.upscaler == "waifu"
    assert found.final_size() == (1024, 1536)
    plain = MODEL.model_copy(update={"upscalers": ()})
    bare = resolved(plain, upscale={}).settings.upscale
    assert bare is not None
    assert bare.upscaler == PLAIN_UPSCALER


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"hires": {"upscaler": "magic"}}, "hires.upscaler"),
        ({"upscale": {"upscaler": "magic"}}, "upscale.upscaler"),
        ({"hires": {"steps": 61}}, "hires.steps"),
        ({"width": 1024, "height": 1024, "hires": {"scale": 4.0}, "upscale": {"factor": 2.0}}, "upscale.factor"),
        ({"steps": 61}, "steps"),
        ({"sampler": "ddim"}, "sampler"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_field(asked: dict[str, Any], field: str) -> None:
    assert refusal(**asked)[:2] == ("invalid", field)


def test_a_field_that_the_model_does_not_honour_is_refused() -> None:
    plain = MODEL.model_copy(update={"fields": ("prompt", "steps")})
    assert refusal(plain, loras=[{"key": "ink"}])[:2] == ("not_supported", "loras")
    assert resolved(plain, loras=[], seed=None, count=1).settings.loras == ()


@pytest.mark.parametrize(
    ("asked", "at"),
    [
        ({"mask": PICTURE}, ("mask",)),
        ({"strength": 0.5}, ("strength",)),
        ({"init_image": PICTURE, "hires": {}}, ("hires",)),
        ({"loras": [{"key": "ink"}, {"key": "ink"}]}, ("loras",)),
        ({"loras": [{"key": "ink", "weight": 9.0}]}, ("loras", 0, "weight")),
        ({"loras": [{"key": f"l{number}"} for number in range(9)]}, ("loras",)),
        ({"hires": {"scale": 1.0}}, ("hires", "scale")),
        ({"upscale": {"factor": 8.0}}, ("upscale", "factor")),
        ({"hires": {"wide": 2}}, ("hires", "wide")),
        ({"clip_skip": 0}, ("clip_skip",)),
        ({"preset": "Fast!"}, ("preset",)),
    ],
)
def test_what_cannot_be_meant_is_refused_at_its_place(asked: dict[str, Any], at: tuple[object, ...]) -> None:
    with pytest.raises(ValidationError) as raised:
        GenerationRequest(prompt="1girl", **asked)
    assert [error["loc"] for error in raised.value.errors()] == [at]


def test_a_request_keeps_its_hash_when_fields_are_added_to_the_contract() -> None:
    spelled = GenerationRequest(prompt="1girl", loras=(), hires=None)
    assert request_hash("tower", spelled) == request_hash("tower", GenerationRequest(prompt="1girl"))
    assert request_hash("tower", spelled) != request_hash("other", spelled)


def test_words_that_the_model_does_not_know_are_said_and_those_of_its_loras_are_known() -> None:
    small = MODEL.model_copy(update={"tags": ("1girl", "smile")})
    assert resolved(small, prompt="1girl, smile").warnings == ()
    (warning,) = resolved(small, prompt="1girl, dragon").warnings
    assert warning == "prompt: left out 'dragon'; counterfeit knows these tags: 1girl, smile"
    assert resolved(small, prompt="1girl, ink style", loras=[{"key": "ink"}]).warnings == ()
    assert resolved(small, prompt="upscale", init_image=PICTURE, strength=0.0, upscale={}).warnings == ()


def test_workflows_are_for_the_model_that_runs_nothing_else() -> None:
    graph = {"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
    inline = MODEL.model_copy(update={"fields": ("prompt", "workflow")})
    assert refusal(MODEL.model_copy(update={"fields": ("prompt",)}), workflow=graph)[:2] == (
        "not_supported",
        "workflow",
    )
    assert refusal(inline)[1] == "workflow"
    assert refusal(inline, workflow=graph, steps=4)[:2] == ("not_supported", "steps")


YUKI = Member(
    id=UUID(int=1), slug="yuki", name="Yuki", version=3, canon=Canon(figure=Figure.GIRL, hair=("silver hair",))
)


class TestAProjectAndItsCharacters:
    def test_a_style_stands_in_for_what_is_left_out(self) -> None:
        style = {"model": "m", "preset": "fast", "width": 256, "height": 320, "loras": [{"key": "ink", "weight": 0.2}]}
        found = resolved(style=style).settings
        assert (found.preset, found.steps, found.width, found.height) == ("fast", 6, 256, 320)
        assert {use.key: use.weight for use in found.loras} == {"lcm": 1.0, "ink": 0.2}
        asked = resolved(style=style, width=512, steps=30, loras=[{"key": "ink", "weight": 0.9}]).settings
        assert (asked.width, asked.height, asked.steps) == (512, 320, 30)
        assert {use.key: use.weight for use in asked.loras} == {"lcm": 1.0, "ink": 0.9}

    def test_what_the_model_cannot_have_of_it_is_left_out_and_told(self) -> None:
        style = {"model": "x", "preset": "none", "width": 2048, "height": 2048, "loras": [{"key": "elsewhere"}]}
        found = resolved(style=style)
        assert (found.settings.width, found.settings.height, found.settings.preset) == (512, 768, None)
        assert found.settings.loras == ()
        told = [warning.partition(":")[0] for warning in found.warnings]
        assert told == ["project.style.preset", "project.style.loras.elsewhere", "project.style.width"]

    def test_a_character_brings_its_lora_with_the_words_that_call_it(self) -> None:
        yuki = YUKI.model_copy(update={"lora": CharacterLora(key="ink")})
        found = resolved(cast=(yuki,), prompt="smile")
        assert [(use.key, use.weight) for use in found.settings.loras] == [("ink", INK.weight)]
        assert found.settings.prompt == f"1girl, {', '.join(INK.trigger_words)}, silver hair, smile"
        own = CharacterLora(key="ink", weight=0.4, trigger="yuki-v2")
        found = resolved(cast=(YUKI.model_copy(update={"lora": own}),), prompt="smile")
        assert [(use.key, use.weight) for use in found.settings.loras] == [("ink", 0.4)]
        assert found.settings.prompt == "1girl, yuki-v2, silver hair, smile"
        strange = YUKI.model_copy(update={"lora": CharacterLora(key="elsewhere", trigger="yuki-v2")})
        found = resolved(cast=(strange,), prompt="smile")
        assert (found.settings.loras, found.settings.prompt) == ((), "1girl, silver hair, smile")
        assert any("elsewhere" in warning for warning in found.warnings)

    def test_the_composition_is_what_is_drawn_and_what_can_be_composed_again(self) -> None:
        found = resolved(style={"prompt_prefix": "anime"}, cast=(YUKI,), prompt="smile", negative_prompt="hat")
        assert found.settings.prompt == found.composition.prompt == "anime, 1girl, silver hair, smile"
        assert found.settings.negative_prompt == found.composition.negative_prompt == "hat"
        assert [(used.slug, used.version) for used in found.composition.characters] == [("yuki", 3)]
        assert found.production.target is not None
        again = compose("smile", "hat", found.production, found.production.target)
        assert again.composition == found.composition

    def test_a_seed_is_the_requests_or_the_first_characters_with_a_policy(self) -> None:
        def seed(*policies: SeedPolicy, project: int = 1, **asked: Any) -> int:
            cast = tuple(
                YUKI.model_copy(update={"id": UUID(int=index), "seed": policy}) for index, policy in enumerate(policies)
            )
            return seed_for(GenerationRequest(prompt="x", **asked), Production(cast=cast), UUID(int=project), 99)

        fixed, scene, free = SeedPolicy(mode=SeedMode.FIXED, seed=5), SeedPolicy(mode=SeedMode.SCENE), SeedPolicy()
        assert seed() == seed(free) == seed(scene) == 99
        assert seed(free, fixed) == 5
        assert seed(fixed, seed=1) == 1
        assert seed(scene, scene="roof") == seed(scene, fixed, scene="roof") != 99
        assert seed(scene, scene="roof") not in {seed(scene, scene="hall"), seed(scene, scene="roof", project=2)}
