"""How prompts are encoded, against the pipelines' own way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from anime_generator.engines.prompts import encode_prompt, windows_of
from tests.generator.checkpoints import tiny_sd, tiny_sdxl

pytestmark = pytest.mark.slow

PROMPT = "1girl, blue hair, smile"
LONG = ", ".join(["1girl, blue hair, twintails, smile, classroom, white shirt"] * 12)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Stable Diffusion 1.x pipeline with random weights."""
    return StableDiffusionPipeline.from_pretrained(tiny_sd(tmp_path_factory.mktemp("sd")), safety_checker=None)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An SDXL pipeline with random weights."""
    return StableDiffusionXLPipeline.from_pretrained(tiny_sdxl(tmp_path_factory.mktemp("sdxl")))


@pytest.fixture(params=["sd", "sdxl"])
def pipe(request: pytest.FixtureRequest) -> Any:
    """A pipeline of each family."""
    return request.getfixturevalue(request.param)


def own(pipe: Any, prompt: str, skip: int | None = None) -> tuple[Any, Any]:
    """What the pipeline itself makes of a prompt."""
    with torch.no_grad():
        found = pipe.encode_prompt(
            prompt=prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, clip_skip=skip
        )
    return found[0], found[2] if len(found) > 2 else None


def test_a_plain_prompt_is_what_the_pipeline_makes_of_it(pipe: Any) -> None:
    encoded = encode_prompt(pipe, PROMPT)
    tokens, pooled = own(pipe, PROMPT)
    assert torch.equal(encoded.tokens, tokens)
    assert (encoded.pooled is None) == (pooled is None)
    assert pooled is None or torch.equal(encoded.pooled, pooled)


def test_clip_skip_of_sdxl_is_the_pipelines_own(sdxl: Any) -> None:
    assert torch.equal(encode_prompt(sdxl, PROMPT, clip_skip=2).tokens, own(sdxl, PROMPT, 1)[0])


def test_clip_skip_of_sd_takes_the_normalised_layer_before(sd: Any) -> None:
    ids = sd.tokenizer(PROMPT, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        before = sd.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        (norm,) = (part for name, part in sd.text_encoder.named_modules() if name.endswith("final_layer_norm"))
        assert torch.equal(encode_prompt(sd, PROMPT, clip_skip=2).tokens, norm(before))


def test_clip_skip_takes_another_layer(pipe: Any) -> None:
    assert not torch.equal(encode_prompt(pipe, PROMPT).tokens, encode_prompt(pipe, PROMPT, clip_skip=2).tokens)


def test_a_weight_of_one_changes_nothing(pipe: Any) -> None:
    weighted = encode_prompt(pipe, "1girl, (blue hair:1.0), smile")
    assert torch.equal(weighted.tokens, encode_prompt(pipe, PROMPT).tokens)


def test_a_weight_changes_its_own_tokens_most(pipe: Any) -> None:
    plain = encode_prompt(pipe, PROMPT).tokens[0]
    weighted = encode_prompt(pipe, "1girl, (blue hair:1.5), smile").tokens[0]
    change = (weighted.norm(dim=-1) / plain.norm(dim=-1)).tolist()
    ids = pipe.tokenizer(PROMPT, add_special_tokens=False).input_ids
    (blue,) = pipe.tokenizer("blue hair", add_special_tokens=False).input_ids
    at = 1 + ids.index(blue)
    others = [each for place, each in enumerate(change) if place != at]
    assert change[at] / max(others) == pytest.approx(1.5, rel=1e-3)


def test_the_mean_of_a_normalised_window_stays(sd: Any) -> None:
    plain, weighted = (encode_prompt(sd, text).tokens for text in (PROMPT, "1girl, (blue hair:1.5), smile"))
    assert weighted.mean().item() == pytest.approx(plain.mean().item(), abs=1e-6)


def test_a_long_prompt_fills_more_windows_and_loses_nothing(pipe: Any) -> None:
    window = pipe.tokenizer.model_max_length
    encoded = encode_prompt(pipe, LONG)
    assert encoded.windows == windows_of(pipe, LONG) > 1
    assert encoded.tokens.shape[1] == encoded.windows * window
    changed = encode_prompt(pipe, f"{LONG}, night sky")
    assert not torch.equal(encoded.tokens, changed.tokens)


def test_break_begins_a_window(pipe: Any) -> None:
    window = pipe.tokenizer.model_max_length
    encoded = encode_prompt(pipe, "1girl BREAK blue hair")
    assert encoded.windows == 2
    for place, text in enumerate(["1girl", "blue hair"]):
        alone = encode_prompt(pipe, text).tokens
        assert torch.allclose(encoded.tokens[:, place * window : (place + 1) * window], alone, atol=1e-5)


def test_a_negative_prompt_is_made_as_long(pipe: Any) -> None:
    window = pipe.tokenizer.model_max_length
    negative = encode_prompt(pipe, "blurry", windows=3)
    assert negative.tokens.shape[1] == 3 * window
    empty = encode_prompt(pipe, "").tokens
    assert torch.allclose(negative.tokens[:, 2 * window :], empty, atol=1e-5)
