"""What a safetensors file holds, told by the names and shapes of its tensors alone: pure.

Sources of the names: the published checkpoints' layout (CompVis and Stability), kohya-ss' and PEFT's names of adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from anime_generator.registry.header import Header

Prediction = Literal["epsilon", "v_prediction"]


class Kind(StrEnum):
    """What a file is good for."""

    CHECKPOINT = "checkpoint"
    VAE = "vae"
    LORA = "lora"
    EMBEDDING = "embedding"
    CONTROLNET = "controlnet"
    COMPONENT = "component"
    UNKNOWN = "unknown"


FAMILIES: dict[str, str] = {
    "sd15": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL (Illustrious, NoobAI, Pony and Animagine too)",
    "sd": "the architecture of Stable Diffusion 1 and 2 in another size",
}
"""What `family =` may say: the architectures that can be drawn with."""

WHOLE: dict[str, str] = {
    "AuraFlowPipeline": "auraflow",
    "ChromaPipeline": "chroma",
    "FluxPipeline": "flux",
    "Lumina2Pipeline": "lumina2",
    "PixArtAlphaPipeline": "pixart-alpha",
    "PixArtSigmaPipeline": "pixart-sigma",
    "StableDiffusion3Pipeline": "sd3",
    "ZImagePipeline": "z-image",
}
"""Pipelines of diffusers that are run as a whole by the engine `auto`, from folders only, and their families."""

WHOLE_MULTIPLE = 16
"""Sides of their pictures in pixels: eight of them are a latent, and two latents a side are a patch."""

FOREIGN: dict[str, str] = {
    "sdxl-refiner": "the refiner of Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux",
    "inpainting": "the kind that paints over a picture",
}
"""What is recognised, so that it can be refused by its name."""

_BY_CONTEXT = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
"""Families by the width of what their denoiser is conditioned on."""

_UNET = "model.diffusion_model."
_ADAPTER = re.compile(
    r"(\.lora_(down|up)\.weight|\.lora_[AB](\.\w+)?\.weight|[._]lora\.(down|up)\.weight|\.hada_w1_a|\.lokr_w[12](_[ab])?)$"
)
_CONTEXT_ENDS = (
    "attn2_to_k.lora_down.weight",
    "attn2.to_k.lora_A.weight",
    "attn2.to_k.lora_A.default.weight",
    "attn2.to_k.lora.down.weight",
    "attn2.processor.to_k_lora.down.weight",
    "attn2_to_k.hada_w1_b",
)
_MARKS = (
    (Kind.CONTROLNET, re.compile(r"control_model\.|controlnet_|input_hint_block\.")),
    (Kind.VAE, re.compile(r"(first_stage_model\.|vae\.)?decoder\.conv_in\.weight")),
    (Kind.COMPONENT, re.compile(r"(double_blocks|joint_blocks|down_blocks|text_model|transformer_blocks)\.")),
)
_BASES = (
    (re.compile(r"sdxl|stable-diffusion-xl"), "sdxl"),
    (re.compile(r"sd_v2|stable-diffusion-v2"), "sd2"),
    (re.compile(r"sd_v1|stable-diffusion-v1"), "sd15"),
    (re.compile(r"sd3|stable-diffusion-3"), "sd3"),
    (re.compile(r"flux"), "flux"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds. `family` is empty when that cannot be told; `lacks` are parts a checkpoint should have.

    `sampler` is the one that a pipeline which is run as a whole comes with; empty for all others.
    """

    kind: Kind
    family: str = ""
    prediction: Prediction | None = None
    zero_terminal_snr: bool | None = None
    lacks: tuple[str, ...] = ()
    sampler: str = ""


def recognise(header: Header) -> Found:
    """What a file holds."""
    names = header.tensors.keys()
    if any(name.startswith(_UNET) for name in names):
        return _checkpoint(header)
    if any(_ADAPTER.search(name) for name in names):
        return Found(Kind.LORA, _family_of_lora(header))
    for kind, mark in _MARKS:
        if any(mark.match(name) for name in names):
            return Found(kind)
    family = _family_of_embedding(header)
    return Found(Kind.UNKNOWN) if family is None else Found(Kind.EMBEDDING, family)


def family_of_unet(context: int, blocks: tuple[int, ...], *, xl: bool) -> str:
    """The family of a denoiser: `context` is the width of its conditioning, `blocks` the width of each level."""
    if xl:
        return "sdxl"
    usual = blocks == (320, 640, 1280, 1280)
    return _BY_CONTEXT.get(context, "sd") if usual and context != 2048 else "sd"


def family_of_metadata(metadata: Mapping[str, str]) -> str:
    """The family that a file's own texts name, as kohya-ss and the Model Spec of Stability write them; else empty."""
    said = " ".join(metadata.get(key, "").lower() for key in ("ss_base_model_version", "modelspec.architecture"))
    return next((family for pattern, family in _BASES if pattern.search(said)), "")


def context_of_embedding(header: Header) -> tuple[int, ...]:
    """The widths of the vectors of an embedding, one an encoder; empty when it is none."""
    if not 1 <= len(header.tensors) <= 4:
        return ()
    if {"clip_l", "clip_g"} <= header.tensors.keys():
        return header.shape("clip_l")[-1:] + header.shape("clip_g")[-1:]
    name = "emb_params" if "emb_params" in header.tensors else next(iter(header.tensors))
    shape = header.shape(name)
    alone = len(header.tensors) == 1 or name == "emb_params"
    return shape[-1:] if alone and len(shape) in {1, 2} else ()


def _checkpoint(header: Header) -> Found:
    names = header.tensors.keys()
    prediction, zero = _prediction(header)
    lacks = []
    if not any(name.startswith(("first_stage_model.", "vae.")) for name in names):
        lacks.append("autoencoder")
    if not any(name.startswith(("cond_stage_model.", "conditioner.", "text_encoders.")) for name in names):
        lacks.append("text encoder")
    return Found(Kind.CHECKPOINT, _family_of_checkpoint(header), prediction, zero, tuple(lacks))


def _family_of_checkpoint(header: Header) -> str:
    names = header.tensors.keys()
    if any(name.startswith(f"{_UNET}double_blocks.") for name in names):
        return "flux"
    if any(name.startswith(f"{_UNET}joint_blocks.") for name in names):
        return "sd3"
    first = header.shape(f"{_UNET}input_blocks.0.0.weight")
    if len(first) != 4:
        return ""
    if first[1] != 4:
        return "inpainting"
    if f"{_UNET}label_emb.0.0.weight" in names:
        refiner = not any(name.startswith("conditioner.embedders.1.") for name in names) and any(
            name.startswith("conditioner.embedders.0.model.") for name in names
        )
        return "sdxl-refiner" if refiner else "sdxl"
    context = header.shape(f"{_UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    usual = first[0] == 320
    return _BY_CONTEXT.get(context[-1], "sd") if usual and context else "sd"


def _prediction(header: Header) -> tuple[Prediction | None, bool | None]:
    """What the file says it was trained to predict: by marker tensors, or by the metadata of its maker."""
    zero = True if "ztsnr" in header.tensors else None
    if "v_pred" in header.tensors:
        return "v_prediction", zero
    said = header.metadata.get("modelspec.prediction_type", "").lower()
    if said in {"v", "v-prediction", "v_prediction"}:
        return "v_prediction", zero
    return ("epsilon" if said == "epsilon" else None), zero


def _family_of_lora(header: Header) -> str:
    for name, tensor in header.tensors.items():
        if name.endswith(_CONTEXT_ENDS) and len(tensor.shape) >= 2:
            family = _BY_CONTEXT.get(tensor.shape[1])
            if family is not None:
                return family
    names = header.tensors.keys()
    if any(name.startswith(("lora_te2_", "text_encoder_2.")) for name in names):
        return "sdxl"
    if any("double_blocks" in name or "single_transformer_blocks" in name for name in names):
        return "flux"
    return family_of_metadata(header.metadata)


def _family_of_embedding(header: Header) -> str | None:
    context = context_of_embedding(header)
    if len(context) == 2:
        return "sdxl"
    family = _BY_CONTEXT.get(context[0]) if context else None
    return family or ("" if "emb_params" in header.tensors else None)
