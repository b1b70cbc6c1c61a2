"""The published layout of single-file checkpoints: names and shapes, written down from the original architectures.

Sources: `ldm/modules/diffusionmodules/{openaimodel,model}.py` and `configs/stable-diffusion/v1-inference.yaml` of
CompVis' code, `v2-inference.yaml` and `sd_xl_base.yaml` of Stability's, transformers' and OpenCLIP's text encoders.
Nothing here is derived from diffusers, which it is compared with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anime_generator.registry import CONFIGURATIONS

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, Shape]]


@dataclass(frozen=True)
class Encoder:
    """A text encoder of `layers` blocks, `width` wide."""

    width: int
    layers: int
    vocabulary: int = 49408
    window: int = 77


@dataclass(frozen=True)
class Architecture:
    """What tells one checkpoint of a family from another of a different size."""

    family: str
    channels: int
    levels: tuple[int, ...]
    layers: int
    depths: tuple[int, ...]
    context: int
    pooled: int
    linear: bool
    clip: Encoder | None
    open_clip: Encoder | None
    vae: int


SD15 = Architecture("sd15", 320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 768, 0, False, Encoder(768, 12), None, 128)
SD2 = Architecture("sd2", 320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 1024, 0, True, None, Encoder(1024, 24), 128)
SDXL = Architecture("sdxl", 320, (1, 2, 4), 2, (0, 2, 10), 2048, 2816, True, Encoder(768, 12), Encoder(1280, 32), 128)
TINY_SD = Architecture("sd15", 32, (1, 2, 2, 2), 2, (1, 1, 1, 0), 32, 0, False, Encoder(32, 2), None, 32)
TINY_XL = Architecture("sdxl", 32, (1, 2, 2), 2, (0, 1, 1), 96, 6 * 8 + 64, True, Encoder(32, 2), Encoder(64, 2), 32)


def layout(architecture: Architecture) -> dict[str, Shape]:
    """Every tensor of the single file of an architecture."""
    found = {f"model.diffusion_model.{name}": shape for name, shape in _unet(architecture)}
    found |= {f"first_stage_model.{name}": shape for name, shape in _vae(architecture.vae)}
    both = architecture.clip is not None and architecture.open_clip is not None
    if architecture.clip is not None:
        prefix = "conditioner.embedders.0.transformer." if both else "cond_stage_model.transformer."
        found |= {f"{prefix}{name}": shape for name, shape in _clip(architecture.clip)}
    if architecture.open_clip is not None:
        prefix = "conditioner.embedders.1.model." if both else "cond_stage_model.model."
        found |= {f"{prefix}{name}": shape for name, shape in _open_clip(architecture.open_clip)}
    return found


def _linear(name: str, out: int, into: int) -> Tensors:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _conv(name: str, out: int, into: int, kernel: int = 3) -> Tensors:
    yield f"{name}.weight", (out, into, kernel, kernel)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Tensors:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _unet(a: Architecture) -> Tensors:
    time = 4 * a.channels
    yield from _linear("time_embed.0", time, a.channels)
    yield from _linear("time_embed.2", time, time)
    if a.pooled:
        yield from _linear("label_emb.0.0", time, a.pooled)
        yield from _linear("label_emb.0.2", time, time)
    yield from _conv("input_blocks.0.0", a.channels, 4)
    widths, now, number = [a.channels], a.channels, 0
    for level, factor in enumerate(a.levels):
        for _ in range(a.layers):
            number += 1
            out = factor * a.channels
            yield from _residual(f"input_blocks.{number}.0", now, out, time)
            yield from _transformer(f"input_blocks.{number}.1", out, a.depths[level], a)
            now = out
            widths.append(now)
        if level < len(a.levels) - 1:
            number += 1
            yield from _conv(f"input_blocks.{number}.0.op", now, now)
            widths.append(now)
    yield from _residual("middle_block.0", now, now, time)
    yield from _transformer("middle_block.1", now, a.depths[-1] or 1, a)
    yield from _residual("middle_block.2", now, now, time)
    number = -1
    for level in reversed(range(len(a.levels))):
        for layer in range(a.layers + 1):
            number += 1
            out = a.levels[level] * a.channels
            yield from _residual(f"output_blocks.{number}.0", now + widths.pop(), out, time)
            yield from _transformer(f"output_blocks.{number}.1", out, a.depths[level], a)
            now = out
            if level and layer == a.layers:
                yield from _conv(f"output_blocks.{number}.{2 if a.depths[level] else 1}.conv", now, now)
    yield from _norm("out.0", a.channels)
    yield from _conv("out.2", 4, a.channels)


def _residual(name: str, into: int, out: int, time: int) -> Tensors:
    yield from _norm(f"{name}.in_layers.0", into)
    yield from _conv(f"{name}.in_layers.2", out, into)
    yield from _linear(f"{name}.emb_layers.1", out, time)
    yield from _norm(f"{name}.out_layers.0", out)
    yield from _conv(f"{name}.out_layers.3", out, out)
    if into != out:
        yield from _conv(f"{name}.skip_connection", out, into, 1)


def _transformer(name: str, width: int, depth: int, a: Architecture) -> Tensors:
    if not depth:
        return
    yield from _norm(f"{name}.norm", width)
    for part in ("proj_in", "proj_out"):
        yield from _linear(f"{name}.{part}", width, width) if a.linear else _conv(f"{name}.{part}", width, width, 1)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for attention, context in (("attn1", width), ("attn2", a.context)):
            yield f"{block}.{attention}.to_q.weight", (width, width)
            yield f"{block}.{attention}.to_k.weight", (width, context)
            yield f"{block}.{attention}.to_v.weight", (width, context)
            yield from _linear(f"{block}.{attention}.to_out.0", width, width)
        yield from _linear(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from _linear(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{block}.{norm}", width)


def _vae(channels: int) -> Tensors:
    widths = [factor * channels for factor in (1, 2, 4, 4)]
    yield from _conv("encoder.conv_in", channels, 3)
    now = channels
    for level, out in enumerate(widths):
        for layer in range(2):
            yield from _vae_block(f"encoder.down.{level}.block.{layer}", now, out)
            now = out
        if level < 3:
            yield from _conv(f"encoder.down.{level}.downsample.conv", now, now)
    yield from _vae_middle("encoder.mid", now)
    yield from _norm("encoder.norm_out", now)
    yield from _conv("encoder.conv_out", 8, now)
    yield from _conv("quant_conv", 8, 8, 1)
    yield from _conv("post_quant_conv", 4, 4, 1)
    yield from _conv("decoder.conv_in", now, 4)
    yield from _vae_middle("decoder.mid", now)
    for level in reversed(range(4)):
        for layer in range(3):
            yield from _vae_block(f"decoder.up.{level}.block.{layer}", now, widths[level])
            now = widths[level]
        if level:
            yield from _conv(f"decoder.up.{level}.upsample.conv", now, now)
    yield from _norm("decoder.norm_out", now)
    yield from _conv("decoder.conv_out", 3, now)


def _vae_block(name: str, into: int, out: int) -> Tensors:
    yield from _norm(f"{name}.norm1", into)
    yield from _conv(f"{name}.conv1", out, into)
    yield from _norm(f"{name}.norm2", out)
    yield from _conv(f"{name}.conv2", out, out)
    if into != out:
        yield from _conv(f"{name}.nin_shortcut", out, into, 1)


def _vae_middle(name: str, width: int) -> Tensors:
    yield from _vae_block(f"{name}.block_1", width, width)
    yield from _norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{name}.attn_1.{part}", width, width, 1)
    yield from _vae_block(f"{name}.block_2", width, width)


def _clip(e: Encoder) -> Tensors:
    yield "text_model.embeddings.position_ids", (1, e.window)
    yield "text_model.embeddings.token_embedding.weight", (e.vocabulary, e.width)
    yield "text_model.embeddings.position_embedding.weight", (e.window, e.width)
    for layer in range(e.layers):
        block = f"text_model.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{block}.self_attn.{part}", e.width, e.width)
        yield from _linear(f"{block}.mlp.fc1", 4 * e.width, e.width)
        yield from _linear(f"{block}.mlp.fc2", e.width, 4 * e.width)
        yield from _norm(f"{block}.layer_norm1", e.width)
        yield from _norm(f"{block}.layer_norm2", e.width)
    yield from _norm("text_model.final_layer_norm", e.width)


def _open_clip(e: Encoder) -> Tensors:
    yield "positional_embedding", (e.window, e.width)
    yield "token_embedding.weight", (e.vocabulary, e.width)
    yield "text_projection", (e.width, e.width)
    yield "logit_scale", ()
    for layer in range(e.layers):
        block = f"transformer.resblocks.{layer}"
        yield f"{block}.attn.in_proj_weight", (3 * e.width, e.width)
        yield f"{block}.attn.in_proj_bias", (3 * e.width,)
        yield from _linear(f"{block}.attn.out_proj", e.width, e.width)
        yield from _linear(f"{block}.mlp.c_fc", 4 * e.width, e.width)
        yield from _linear(f"{block}.mlp.c_proj", e.width, 4 * e.width)
        yield from _norm(f"{block}.ln_1", e.width)
        yield from _norm(f"{block}.ln_2", e.width)
    yield from _norm("ln_final", e.width)


def configuration(architecture: Architecture, folder: Path) -> Path:
    """The shipped configuration of a family, made narrower."""
    shutil.copytree(CONFIGURATIONS / architecture.family, folder)
    widths = [factor * architecture.channels for factor in architecture.levels]
    changes: dict[str, Any] = {
        "block_out_channels": widths,
        "cross_attention_dim": architecture.context,
        "attention_head_dim": 4,
        "sample_size": 16,
    }
    if architecture.pooled:
        changes |= {"transformer_layers_per_block": [1, *architecture.depths[1:]], "addition_time_embed_dim": 8}
        changes |= {"projection_class_embeddings_input_dim": architecture.pooled}
    _edit(folder / "unet" / "config.json", changes)
    _edit(
        folder / "vae" / "config.json", {"block_out_channels": [architecture.vae * factor for factor in (1, 2, 4, 4)]}
    )
    for name, encoder in (("text_encoder", architecture.clip), ("text_encoder_2", architecture.open_clip)):
        if encoder is not None:
            size = {"hidden_size": encoder.width, "num_hidden_layers": encoder.layers, "num_attention_heads": 4}
            _edit(
                folder / name / "config.json",
                {**size, "intermediate_size": 4 * encoder.width, "projection_dim": encoder.width},
            )
    return folder


def _edit(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
