"""Packs a checkpoint for use: `python -m tools.sprite.pack [TARGET]` writes a folder for `StableDiffusionPipeline`.

Weights are in half precision. The averaged weights are packed; `--raw` packs those of the last step, `--annealed` the
end of a run that annealed. Beside them, `training.json` says how long the model was trained, and `tags.json` what it
knows.
"""

# torch has no types here: see pyproject.toml.
# mypy: disable-error-code="untyped-decorator, misc, no-any-return"

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from tools.sprite import autoencoder, diffusion, model, tokenizer
from tools.sprite.home import home, load
from tools.sprite.shipped import LIMIT_MB
from tools.sprite.vocabulary import all_tags

TRAINING = "training.json"
TAGS = "tags.json"


@torch.no_grad()
def _fill(parameters: Iterable[torch.Tensor], values: Iterable[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def pipeline_of(state: dict[str, Any], *, raw: bool = False) -> Any:
    """The pipeline of a checkpoint, in single precision."""
    words = tokenizer.load(diffusion.tokenizer_path())
    unet, text = model.create_unet(), model.create_text_encoder(words)
    unet.load_state_dict(state["unet"])
    text.load_state_dict(state["text"])
    if not raw:
        _fill([*unet.parameters(), *text.parameters()], state["average"])
    return StableDiffusionPipeline(
        vae=autoencoder.load(),
        text_encoder=text.eval(),
        tokenizer=words,
        unet=unet.eval(),
        scheduler=model.sampling_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _edit(config: Path, *, without: str, **changes: str) -> None:
    """Change the configuration of a part."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop(without, None)
    config.write_text(json.dumps(settings | changes, indent=2) + "\n", encoding="utf-8")


def pack(target: Path, *, raw: bool = False, annealed: bool = False) -> float:
    """Write the package of the last checkpoint; returns its size in MB."""
    state = load(diffusion.checkpoint_path(annealed=annealed))
    pipeline = pipeline_of(state, raw=raw)
    pipeline.to(torch.float16).save_pretrained(target, safe_serialization=True)
    # Loaded as the UNet is: transformers would keep the precision of the file.
    _edit(target / "text_encoder" / "config.json", without="torch_dtype", dtype="float32")
    _edit(target / "vae" / "config.json", without="_name_or_path")  # a folder of the machine it was trained on
    (target / TAGS).write_text(json.dumps({"tags": all_tags()}, indent=1) + "\n", encoding="utf-8")
    spent = {key: state[key] for key in ("samples", "step", "cpu_seconds")}
    (target / TRAINING).write_text(json.dumps(spent) + "\n", encoding="utf-8")
    for file in target.rglob("*.safetensors"):
        file.chmod(0o644)  # it is written for its owner alone
    return sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="pack the last checkpoint of the diffusion model")
    parser.add_argument("target", type=Path, nargs="?", default=home() / "package")
    parser.add_argument("--raw", action="store_true", help="the weights of the last step, not their average")
    parser.add_argument("--annealed", action="store_true", help="the end of the run that annealed")
    options = parser.parse_args()
    size = pack(options.target, raw=options.raw, annealed=options.annealed)
    print(f"{options.target}: {size:.1f} MB")
    return 0 if size <= LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
