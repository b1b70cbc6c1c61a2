"""Folders of pipelines that are run as a whole, of the published architectures with a few thousand random weights."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizerFast,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from anime_generator.engines import ENGINES
from anime_generator.registry import ModelSpec, load_registry
from tests.generator.builders import sprite_spec

WIDTH = 32
SPACE = "▁"
ENTRY = """
[models.big]
source = "model"
{more}

[models.big.defaults]
width = 64
height = 64
steps = 4
{defaults}
"""


def tiny(family: str, folder: Path, *, shard: str = "10GB") -> Path:
    """A folder of that family; `shard` is the largest file of weights."""
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(folder, safe_serialization=True, max_shard_size=shard)
    return folder


def registered(folder: Path, more: str = "", defaults: str = "") -> ModelSpec:
    """The model in `folder`/model as the registry has it, by the key `big`."""
    file = folder / "models.toml"
    file.write_text(ENTRY.format(more=more, defaults=defaults), encoding="utf-8")
    return load_registry(file, frozenset(ENGINES)).models["big"]


def _sd3() -> Any:
    """Without the third text encoder, which may be left out."""
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
            caption_projection_dim=WIDTH, joint_attention_dim=WIDTH, pooled_projection_dim=2 * WIDTH, out_channels=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4),
        text_encoder=CLIPTextModelWithProjection(_clip()),
        tokenizer=_words(),
        text_encoder_2=CLIPTextModelWithProjection(_clip()),
        tokenizer_2=_words(),
        text_encoder_3=None,
        tokenizer_3=None,
    )  # fmt: skip


def _flux() -> Any:
    """Packed latents, guidance as an input."""
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4),
        text_encoder=CLIPTextModel(_clip()),
        tokenizer=_words(),
        text_encoder_2=T5EncoderModel(_t5(T5Config)),
        tokenizer_2=_t5_words(),
    )  # fmt: skip


def _chroma() -> Any:
    return ChromaPipeline(
        transformer=ChromaTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=WIDTH,
            approximator_layers=1, approximator_num_channels=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4),
        text_encoder=T5EncoderModel(_t5(T5Config)),
        tokenizer=_t5_words(),
    )  # fmt: skip


def _pixart(pipeline: Any) -> Callable[[], Any]:
    """One T5 encoder, a DPM-Solver, the older kind of callback."""

    def make() -> Any:
        return pipeline(
            transformer=PixArtTransformer2DModel(
                sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=4,
                caption_channels=WIDTH, in_channels=4, cross_attention_dim=WIDTH, out_channels=8,
                use_additional_conditions=False,
            ),
            scheduler=DPMSolverMultistepScheduler(),
            vae=_vae(4),
            text_encoder=T5EncoderModel(_t5(T5Config)),
            tokenizer=_t5_words(),
        )  # fmt: skip

    return make


def _auraflow() -> Any:
    return AuraFlowPipeline(
        transformer=AuraFlowTransformer2DModel(
            sample_size=32, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
            attention_head_dim=8, num_attention_heads=4, caption_projection_dim=WIDTH, joint_attention_dim=WIDTH,
            out_channels=4, pos_embed_max_size=256,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4),
        text_encoder=UMT5EncoderModel(_t5(UMT5Config)),
        tokenizer=_t5_words(),
    )  # fmt: skip


def _lumina2() -> Any:
    tokenizer = GemmaTokenizerFast(
        vocab={name: number for number, name in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *_pieces()))}
    )
    config = Gemma2Config(
        head_dim=8, hidden_size=WIDTH, intermediate_size=WIDTH, num_attention_heads=2, num_hidden_layers=2,
        num_key_value_heads=2, sliding_window=8, vocab_size=len(tokenizer),
    )  # fmt: skip
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=4, patch_size=2, in_channels=4, hidden_size=16, num_layers=2, num_attention_heads=2,
            num_kv_heads=1, multiple_of=16, axes_dim_rope=[4, 2, 2], cap_feat_dim=WIDTH,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4),
        text_encoder=Gemma2Model(config),
        tokenizer=tokenizer,
    )  # fmt: skip


def _z_image() -> Any:
    tokenizer = Qwen2Tokenizer(
        vocab={name: number for number, name in enumerate(("<|endoftext|>", "Ġ", *string.printable))},
        model_max_length=512,
    )
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ' ' + message['content'] }}{% endfor %}"
    )
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=WIDTH, n_layers=2, n_refiner_layers=1,
        n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH, rope_theta=256.0, axes_dims=[8, 4, 4], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    for padding in (transformer.x_pad_token, transformer.cap_pad_token):  # not set by the library
        torch.nn.init.ones_(padding)
    config = Qwen3Config(
        hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=len(tokenizer), max_position_embeddings=512,
    )  # fmt: skip
    return ZImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4),
        text_encoder=Qwen3Model(config),
        tokenizer=tokenizer,
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "auraflow": _auraflow,
    "chroma": _chroma,
    "flux": _flux,
    "lumina2": _lumina2,
    "pixart-alpha": _pixart(PixArtAlphaPipeline),
    "pixart-sigma": _pixart(PixArtSigmaPipeline),
    "sd3": _sd3,
    "z-image": _z_image,
}


def _vae(channels: int) -> Any:
    """Eight pixels a side are a latent, as in the published ones."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=channels, norm_num_groups=4, sample_size=512,
        use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5,
    )  # fmt: skip


def _words() -> Any:
    return CLIPTokenizer.from_pretrained(f"{sprite_spec().source}/tokenizer")


def _clip() -> CLIPTextConfig:
    words = _words()
    return CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=WIDTH, projection_dim=WIDTH, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=words.model_max_length, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip


def _t5(kind: Any) -> Any:
    return kind(vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=4)


def only_sentencepiece(folder: Path) -> None:
    """Have the vocabulary of a T5 tokenizer as SentencePiece's own file, and no other."""
    from sentencepiece import sentencepiece_model_pb2  # its bindings warn when they are loaded

    (folder / "tokenizer.json").unlink(missing_ok=True)
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.unk_id, model.trainer_spec.model_type = 2, 1
    for name, score in _t5_pieces():
        model.pieces.add(piece=name, score=score, type=1 if score else 2 if name == "<unk>" else 3)
    (folder / "spiece.model").write_bytes(model.SerializeToString())


def _t5_pieces() -> list[tuple[str, float]]:
    return [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")] + [(name, -1.0) for name in _pieces()]


def _t5_words() -> Any:
    return T5TokenizerFast(vocab=_t5_pieces(), extra_ids=0, model_max_length=512)


def _pieces() -> list[str]:
    """Letters, alone and at the beginning of a word."""
    return [SPACE, *(SPACE + letter for letter in string.ascii_lowercase), *string.ascii_lowercase]
