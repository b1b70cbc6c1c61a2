"""A checkpoint of Stable Diffusion 1.5's architecture, with random weights: as large and as slow as a real one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from anime_generator.registry import CONFIGURATIONS

FAMILY = "sd15"
SEED = 0


def random_sd15(folder: Path) -> Path:
    """A diffusers folder with weights in half precision, as they are usually published (2.1 GB); made unless it is
    there.

    UNet 860 million parameters, autoencoder 84, text encoder 123, as the shipped configuration of the family has them.
    """
    target = folder / "sd15-random"
    if not (target / "model_index.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        begun = folder / "sd15-random.part"
        shutil.rmtree(begun, ignore_errors=True)
        _write(CONFIGURATIONS / FAMILY, begun)
        shutil.rmtree(target, ignore_errors=True)
        begun.rename(target)
    return target


def _write(configuration: Path, target: Path) -> None:
    import diffusers
    import torch
    import transformers
    from transformers import CLIPTextConfig, CLIPTextModel

    from anime_generator.engines.tokenizers import tokenizers_for

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    torch.manual_seed(SEED)
    for part in ("unet", "vae"):
        kind = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[part]
        kind.from_config(kind.load_config(configuration / part)).half().save_pretrained(target / part)
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(configuration / "text_encoder"))
    text.half().save_pretrained(target / "text_encoder")
    tokenizers_for(configuration)["tokenizer"].save_pretrained(target / "tokenizer")
    shutil.copytree(configuration / "scheduler", target / "scheduler")
    index = json.loads((configuration / "model_index.json").read_text(encoding="utf-8"))
    (target / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
