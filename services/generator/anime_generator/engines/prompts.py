"""Prompts become what the denoiser is conditioned on: weighted, and as long as they are.

Each window of an encoder is encoded by itself and the states are put one after another, as AUTOMATIC1111's web UI does.
The states of a token are multiplied by its weight; where the last layer is normalised (Stable Diffusion 1 and 2), the
mean of the window is then brought back to what it was, as there. A prompt without syntax that fits one window gives
what the pipeline's own `encode_prompt` gives, bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch

from anime_common.prompts.syntax import Chunk, Section, chunked, parse
from anime_generator.engines.embeddings import Embedding
from anime_generator.engines.protocol import EngineError

MARKS = 2
"""Tokens of a window that tell where it begins and ends."""


def encode_prompt(pipe: Any, prompt: str, *, clip_skip: int = 1, windows: int = 1) -> Embedding:
    """Encode one prompt with all encoders of a pipeline.

    `clip_skip` counts as people do: 1 takes the layer that the family takes, 2 the one before it. `windows` is how many
    windows there must be at least: a negative prompt is to be as long as its prompt.
    """
    encoders = [_Encoder(pipe, number) for number in (1, 2) if getattr(pipe, _named("text_encoder", number), None)]
    sections = parse(prompt)
    chunks = [encoder.chunks(sections) for encoder in encoders]
    count = max(windows, *(len(each) for each in chunks))
    with torch.no_grad():
        states = [
            encoder.encode((*each, *[Chunk()] * (count - len(each))), clip_skip)
            for encoder, each in zip(encoders, chunks, strict=True)
        ]
    pooled = [each.pooled for each in states if each.pooled is not None]
    return Embedding(torch.cat([each.tokens for each in states], dim=-1), pooled[-1] if pooled else None, count)


def windows_of(pipe: Any, prompt: str) -> int:
    """How many windows a prompt fills."""
    return len(_Encoder(pipe, 1).chunks(parse(prompt)))


def _named(part: str, number: int) -> str:
    return part if number == 1 else f"{part}_{number}"


class _Encoder:
    """One text encoder of a pipeline with its tokenizer."""

    def __init__(self, pipe: Any, number: int) -> None:
        self._pipe = pipe
        self._tokenizer = getattr(pipe, _named("tokenizer", number))
        self._model = getattr(pipe, _named("text_encoder", number))
        # Of two encoders, the states before the last layer are taken, which nothing normalises.
        self._penultimate = getattr(pipe, "text_encoder_2", None) is not None

    def chunks(self, sections: tuple[Section, ...]) -> tuple[Chunk, ...]:
        """The windows that a prompt fills."""
        tokenizer = self._tokenizer
        comma = tokenizer(",", add_special_tokens=False).input_ids
        window = tokenizer.model_max_length - MARKS
        return chunked(sections, self._ids, window, comma[0] if len(comma) == 1 else None)

    def encode(self, chunks: tuple[Chunk, ...], clip_skip: int) -> Embedding:
        """The states of all windows; the pooled ones are those of the first."""
        device = self._model.device
        ids = torch.tensor([self._padded(chunk) for chunk in chunks], device=device)
        answer = self._model(ids, output_hidden_states=True)
        states = self._layer(answer, clip_skip)
        weights = torch.tensor([self._weights(chunk) for chunk in chunks], device=device, dtype=states.dtype)
        if bool((weights != 1).any()):
            states = self._weighted(states, weights[..., None])
        projected = getattr(answer, "text_embeds", None)
        pooled = projected[:1] if projected is not None else None
        return Embedding(states.reshape(1, -1, states.shape[-1]), pooled, len(chunks))

    def _ids(self, text: str) -> list[int]:
        converted = self._pipe.maybe_convert_prompt(text, self._tokenizer)
        found: list[int] = self._tokenizer(converted, add_special_tokens=False, truncation=False).input_ids
        return found

    def _padded(self, chunk: Chunk) -> list[int]:
        tokenizer = self._tokenizer
        marked = [tokenizer.bos_token_id, *chunk.tokens, tokenizer.eos_token_id]
        return marked + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(marked))

    def _weights(self, chunk: Chunk) -> list[float]:
        marked = [1.0, *chunk.weights, 1.0]
        return marked + [1.0] * (self._tokenizer.model_max_length - len(marked))

    def _layer(self, answer: Any, clip_skip: int) -> Any:
        """States (windows, tokens, width) of the layer that is wanted."""
        deepest = len(answer.hidden_states) - 1
        if clip_skip > deepest:
            text = f"clip_skip: the text encoder has {deepest} layers to choose from, not {clip_skip}"
            raise EngineError("bad_settings", text)
        if self._penultimate:
            return answer.hidden_states[-(clip_skip + 1)]
        if clip_skip == 1:
            return answer.last_hidden_state
        norm = getattr(self._model, "text_model", self._model).final_layer_norm
        return norm(answer.hidden_states[-clip_skip])

    def _weighted(self, states: Any, weights: Any) -> Any:
        weighted = states * weights
        if self._penultimate:
            return weighted
        before, after = (each.float().mean(dim=(1, 2), keepdim=True) for each in (states, weighted))
        # A mean near zero says nothing: dividing by it would throw the window anywhere.
        ratio = torch.where(after.abs() > 1e-6, before / after, torch.ones_like(after))
        return weighted * ratio.to(weighted.dtype)
