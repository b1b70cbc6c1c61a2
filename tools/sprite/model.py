"""The parts of the diffusion model, all of them stock: text encoder, UNet, noise schedules."""

from __future__ import annotations

from typing import Any

import torch

from tools.sprite.autoencoder import CHANNELS, FACTOR
from tools.sprite.render import SIZE
from tools.sprite.tokenizer import LENGTH

#: Text reaches the UNet at 16 × 16 and at 8 × 8, where an eye spans several cells; at 32 × 32 it would cost too much.
WIDTHS, ATTENDS = (32, 64, 160), (False, True, True)
LAYERS = 1  # one number for all levels: adapters of several strengths need it
HEAD = 32
GROUPS = 16
TEXT = 128
LATENT_SIZE = SIZE // FACTOR

_NOISE = {
    "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
}  # fmt: skip


def create_unet() -> Any:
    """A new UNet."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in ATTENDS]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(ATTENDS)]
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE, in_channels=CHANNELS, out_channels=CHANNELS, down_block_types=tuple(down),
        up_block_types=tuple(up), block_out_channels=WIDTHS, layers_per_block=LAYERS, cross_attention_dim=TEXT,
        attention_head_dim=tuple(width // HEAD for width in WIDTHS), norm_num_groups=GROUPS, use_linear_projection=True,
    )  # fmt: skip


def create_text_encoder(tokenizer: Any) -> Any:
    """A new text encoder; its token embeddings are large enough to tell tags apart from the first step."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT, intermediate_size=3 * TEXT, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=TEXT,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    with torch.no_grad():
        encoder.get_input_embeddings().weight.normal_(0, 0.5)
    return encoder


def training_noise() -> torch.Tensor:
    """How much of the picture (squared) is left at each of the 1,000 timesteps; nothing at the last."""
    from diffusers import DDPMScheduler

    alphas: torch.Tensor = DDPMScheduler(**_NOISE, clip_sample=False).alphas_cumprod
    return alphas


def sampling_scheduler() -> Any:
    """The scheduler that the package comes with."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**_NOISE, algorithm_type="dpmsolver++", solver_order=2, steps_offset=1)


def tokens_of(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    """Captions as the pipeline gives them to the text encoder."""
    ids: torch.Tensor = tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return ids
