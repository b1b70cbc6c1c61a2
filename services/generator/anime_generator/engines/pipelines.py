"""Checkpoints become pipelines here: which files are taken, in which precision, on which device.

Nothing is asked of a hub, no pickle is opened, no code that lies beside a checkpoint is run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline

from anime_generator.engines.adapters import Adapters
from anime_generator.engines.previews import PreviewMap, fit_preview_map
from anime_generator.engines.protocol import EngineError
from anime_generator.engines.speed import speed_up
from anime_generator.engines.textual_inversion import add_embeddings
from anime_generator.engines.tokenizers import tokenizers_for
from anime_generator.registry.files import foreign_code

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anime_generator.device import Device
    from anime_generator.registry import ModelSpec

FAMILIES: dict[str, Any] = {
    **dict.fromkeys(("sd", "sd15", "sd2"), StableDiffusionPipeline),
    "sdxl": StableDiffusionXLPipeline,
}
_BY_CLASS = {pipeline.__name__: pipeline for pipeline in FAMILIES.values()}
UNLOADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AttributeError)
"""What the libraries raise for files that are not what they should be."""
_SHARD = re.compile(r"-\d+-of-\d+$")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory: its pipeline, the sampler configuration it was trained with, its preview map, its LoRAs."""

    pipe: Any
    trained: dict[str, Any]
    preview: PreviewMap
    adapters: Adapters

    @property
    def modules(self) -> list[Any]:
        """The networks."""
        return [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]

    @property
    def size(self) -> int:
        """Bytes of all weights, of LoRAs too."""
        return weights_of(self.modules)

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.pipe.vae

    def to_pixels(self, latent: Any) -> Any:
        """Decode one latent (channels, h, w) to a PIL picture."""
        factor, shift = _scale_of(self.vae, latent.device)
        unscaled = (latent[None].float() / factor + shift).to(self.vae.dtype)
        with torch.no_grad():
            pixels = self.vae.decode(unscaled, return_dict=False)[0]
        return self.pipe.image_processor.postprocess(pixels, output_type="pil")[0]

    def to_latents(self, pixels: Any) -> Any:
        """Encode pixels (pictures, 3, h, w) in [-1, 1], one picture at a time, to latents as the sampler sees them."""
        encode = _encoder(self.vae)
        with torch.no_grad():
            return torch.cat([encode(each[None].to(self.vae.device, self.vae.dtype)) for each in pixels])


def load_pipeline(spec: ModelSpec, device: Device) -> Resident:
    """A model on its device, ready to draw; raises EngineError when its files cannot be used."""
    dtype = choose_dtype(spec, device)
    try:
        pipe = _from_files(spec, dtype)
        add_embeddings(pipe, spec)
    except EngineError:
        raise
    except UNLOADABLE as error:
        raise EngineError("model_unusable", f"{spec.key} cannot be loaded: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    # Some encoders keep the precision of their file whatever was asked for: one precision for all.
    pipe.to(device.torch_name, dtype)
    speed_up(pipe, spec, device)
    if dtype == torch.float16 and getattr(pipe.vae.config, "force_upcast", False):
        pipe.vae.to(torch.float32)  # its activations exceed the range of half precision (the SDXL autoencoder)
    return Resident(pipe, _trained(spec, pipe), fit_preview_map(pipe.vae, _encoder(pipe.vae)), Adapters(pipe))


def choose_dtype(spec: ModelSpec, device: Device, half: Any = torch.float16) -> Any:
    """The precision to compute in: `half` on a card, single on the CPU, unless the registry says otherwise."""
    if spec.precision != "auto":
        return _DTYPES[spec.precision]
    return half if device.kind == "cuda" else torch.float32


def _trained(spec: ModelSpec, pipe: Any) -> dict[str, Any]:
    """The scheduler's configuration that came with the model, as far as the registry does not know better."""
    known = dict(pipe.scheduler.config)
    if spec.prediction is not None:
        known["prediction_type"] = spec.prediction
    if spec.zero_terminal_snr is not None:
        known["rescale_betas_zero_snr"] = spec.zero_terminal_snr
    if spec.zero_terminal_snr:
        # Only spacing that begins at the last timestep sees the noise without signal that it was trained on.
        known["timestep_spacing"] = "trailing"
    return known


def _from_files(spec: ModelSpec, dtype: Any) -> Any:
    if spec.source is None:
        raise EngineError("model_unusable", f"models.{spec.key}.source is missing")
    if spec.source.is_dir():
        return _class_of(spec, spec.source).from_pretrained(
            spec.source,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant=variant_of(spec.source / "unet"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **_other_vae(spec, spec.source, dtype),
        )
    if spec.config is None:
        reason = f"models.{spec.key}.config is missing: a single file needs a folder with its family's configuration"
        raise EngineError("model_unusable", reason)
    family = _class_of(spec, spec.config)
    parts = tokenizers_for(spec.config) | _other_vae(spec, spec.config, dtype)
    if family is StableDiffusionPipeline:
        parts |= {"safety_checker": None, "feature_extractor": None}
    return family.from_single_file(
        str(spec.source), config=str(spec.config), dtype=dtype, local_files_only=True, **parts
    )


def _other_vae(spec: ModelSpec, configuration: Path, dtype: Any) -> dict[str, Any]:
    """The autoencoder that the registry wants instead of the checkpoint's own; a file has its configuration's shape."""
    if spec.vae is None:
        return {}
    if spec.vae.is_dir():
        vae = AutoencoderKL.from_pretrained(spec.vae, torch_dtype=dtype, use_safetensors=True, local_files_only=True)
    else:
        vae = AutoencoderKL.from_single_file(
            str(spec.vae), config=str(configuration), subfolder="vae", torch_dtype=dtype, local_files_only=True
        )
    return {"vae": vae}


def variant_of(denoiser: Path) -> str | None:
    """The variant (such as fp16) of a folder whose denoiser has its weights in that one alone."""
    if (denoiser / "diffusion_pytorch_model.safetensors").exists():
        return None
    named = denoiser.glob("diffusion_pytorch_model*.safetensors")
    found = {_SHARD.sub("", each.stem).partition(".")[2] for each in named}
    return found.pop() or None if len(found) == 1 else None


def read_index(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """The model_index.json of a folder; raises EngineError, also when a part wants code of its own to run."""
    index_file = folder / "model_index.json"
    try:
        index: dict[str, Any] = json.loads(index_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"{spec.key}: {index_file} cannot be read: {error}"
        raise EngineError("model_unusable", reason) from error
    if problem := foreign_code(index):
        raise EngineError("model_unusable", f"{spec.key}: {problem}")
    return index


def _class_of(spec: ModelSpec, folder: Path) -> Any:
    """The pipeline class that a folder asks for, if it is one we know."""
    index = read_index(spec, folder)
    found = _BY_CLASS.get(str(index.get("_class_name")))
    if found is None or (spec.family and FAMILIES.get(spec.family) is not found):
        reason = f"{spec.key}: {index.get('_class_name')} is not of family {spec.family or ' or '.join(FAMILIES)!r}"
        raise EngineError("model_unusable", reason)
    return found


def _encoder(vae: Any) -> Any:
    """Pixels in [-1, 1] to latents as the sampler sees them, without noise."""

    def encode(pixels: Any) -> Any:
        encoded = vae.encode(pixels)
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        factor, shift = _scale_of(vae, latents.device)
        return (latents - shift) * factor

    return encode


def _scale_of(vae: Any, device: Any) -> tuple[Any, Any]:
    """What latents of an autoencoder are multiplied by for the sampler, after having been shifted down by so much."""
    config = vae.config
    mean, deviation = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
    if mean and deviation:
        shift, divisor = (torch.tensor(part, device=device).view(1, -1, 1, 1) for part in (mean, deviation))
        return config.scaling_factor / divisor, shift
    return config.scaling_factor, getattr(config, "shift_factor", None) or 0.0


def weights_of(modules: Iterable[Any]) -> int:
    """Bytes of all weights of these networks."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
