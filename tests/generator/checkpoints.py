"""Checkpoints of real architectures with a few thousand random weights, and sprite's tokenizer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.generator.builders import sprite_spec

WIDTH = 32


def tiny_sd(folder: Path) -> Path:
    """Stable Diffusion 1.x: four levels of two layers, all 32 channels wide."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(WIDTH,) * 4, sample_size=8, cross_attention_dim=WIDTH, attention_head_dim=4
    )
    pipe = StableDiffusionPipeline(
        vae=_vae(levels=4, scaling_factor=0.18215),
        text_encoder=CLIPTextModel(_text()),
        tokenizer=_tokenizer(),
        unet=unet,
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_sdxl(folder: Path) -> Path:
    """SDXL: two text encoders, pooled states, sizes as conditioning, an autoencoder that wants single precision."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(WIDTH, 2 * WIDTH),
        layers_per_block=1,
        sample_size=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        cross_attention_dim=2 * WIDTH,
    )
    pipe = StableDiffusionXLPipeline(
        vae=_vae(levels=2, scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(_text()),
        text_encoder_2=CLIPTextModelWithProjection(_text()),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=unet,
        scheduler=_scheduler(),
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def single_file(folder: Path, target: Path) -> Path:
    """The Stable Diffusion 1.x pipeline in `folder` as one file in the layout of the original code."""
    parts = {
        "model.diffusion_model.": (folder / "unet" / "diffusion_pytorch_model.safetensors", _unet_key),
        "first_stage_model.": (folder / "vae" / "diffusion_pytorch_model.safetensors", _vae_key),
        "cond_stage_model.transformer.": (folder / "text_encoder" / "model.safetensors", _text_key),
    }
    weights = {}
    for prefix, (file, rename) in parts.items():
        for key, tensor in load_file(file).items():
            name = rename(key)
            # The original autoencoder's attention is made of 1 x 1 convolutions.
            convolution = prefix.startswith("first") and ".attn_1." in name and tensor.ndim == 2
            weights[prefix + name] = tensor[:, :, None, None].contiguous() if convolution else tensor
    save_file(weights, target)
    return target


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _unet_key(key: str) -> str:
    stem, _, leaf = key.rpartition(".")
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{leaf}"
    if (found := re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.+)", key)) is not None:
        way, level, kind, layer, rest = found.groups()
        number = 3 * int(level) + int(layer)
        block = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
        return f"{block}.0.{_resnet_key(rest)}" if kind == "resnets" else f"{block}.1.{rest}"
    if (found := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(\w+)", key)) is not None:
        return f"input_blocks.{3 * int(found[1]) + 3}.0.op.{found[2]}"
    if (found := re.fullmatch(r"up_blocks\.(\d)\.upsamplers\.0\.(.+)", key)) is not None:
        return f"output_blocks.{3 * int(found[1]) + 2}.{1 if found[1] == '0' else 2}.{found[2]}"
    if (found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key)) is not None:
        is_resnet = found[1] == "resnets"
        return (
            f"middle_block.{2 * int(found[2])}.{_resnet_key(found[3])}" if is_resnet else f"middle_block.1.{found[3]}"
        )
    raise KeyError(key)


def _resnet_key(rest: str) -> str:
    stem, _, leaf = rest.rpartition(".")
    return f"{_RESNET[stem]}.{leaf}"


def _vae_key(key: str) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        key = key.replace("mid_block.attentions.0.", "mid.attn_1.")
        for ours, theirs in _VAE_ATTENTION.items():
            key = key.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda found: f"up.{3 - int(found[1])}.block.{found[2]}", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{3 - int(found[1])}.upsample", key)


def _text_key(key: str) -> str:
    return key if key.startswith("text_model.") else f"text_model.{key}"


def _vae(*, levels: int, scaling_factor: float, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(WIDTH,) * levels,
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        scaling_factor=scaling_factor,
        **options,
    )


def _text() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=1329,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=48,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(f"{sprite_spec().source}/tokenizer")


def _scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
