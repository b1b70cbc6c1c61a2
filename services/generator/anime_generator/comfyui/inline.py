"""Workflows that come with a job: run as they are, as far as the owner of the server allows. Pure.

A workflow can read and write what its nodes can, so only node classes on a list are taken: those of the core that make
and save pictures of models and prompts, and those that the owner adds. None of them reads files of other people or
speaks to other servers.
"""

from __future__ import annotations

from collections.abc import Collection

from anime_generator.comfyui import faults
from anime_generator.comfyui.manifest import Workflow, read_graph
from anime_generator.engines.protocol import EngineError

NAME = "workflow"
"""The model that jobs with a workflow of their own ask for."""
PREFIX = "filename_prefix"

_CORE = """
    CheckpointLoaderSimple UNETLoader CLIPLoader DualCLIPLoader TripleCLIPLoader VAELoader LoraLoader
    LoraLoaderModelOnly CLIPSetLastLayer CLIPTextEncode CLIPTextEncodeSDXL CLIPTextEncodeSDXLRefiner CLIPTextEncodeFlux
    ConditioningCombine ConditioningAverage ConditioningConcat ConditioningSetArea ConditioningSetAreaPercentage
    ConditioningSetMask ConditioningSetTimestepRange ConditioningZeroOut FluxGuidance
    EmptyLatentImage EmptySD3LatentImage EmptyHunyuanLatentVideo LatentUpscale LatentUpscaleBy LatentFromBatch
    RepeatLatentBatch LatentComposite LatentBlend LatentCrop LatentFlip LatentRotate SetLatentNoiseMask
    KSampler KSamplerAdvanced KSamplerSelect SamplerCustom SamplerCustomAdvanced BasicScheduler KarrasScheduler
    ExponentialScheduler BasicGuider CFGGuider DualCFGGuider RandomNoise DisableNoise SplitSigmas FlipSigmas
    ModelSamplingDiscrete ModelSamplingSD3 ModelSamplingFlux ModelSamplingAuraFlow ModelSamplingContinuousEDM
    RescaleCFG FreeU FreeU_V2 PatchModelAddDownscale PerturbedAttentionGuidance SelfAttentionGuidance
    VAEDecode VAEDecodeTiled VAEEncode VAEEncodeTiled
    UpscaleModelLoader ImageUpscaleWithModel ImageScale ImageScaleBy ImageScaleToTotalPixels ImageCrop ImageInvert
    ImageBatch ImageBlend ImageBlur ImageSharpen ImageQuantize ImageCompositeMasked ImageFromBatch RepeatImageBatch
    EmptyImage SolidMask MaskComposite InvertMask CropMask FeatherMask GrowMask MaskToImage ImageToMask
    CreateVideo SaveVideo SaveImage SaveAnimatedPNG SaveAnimatedWEBP PreviewImage
"""
USUAL = frozenset(_CORE.split())
"""Node classes of the core that are taken."""


def inline(text: str, allowed: Collection[str]) -> Workflow:
    """The workflow of a job; `allowed` are the owner's classes beside the usual ones. Raises EngineError."""
    try:
        graph = read_graph(text)
    except (ValueError, RecursionError) as error:
        raise EngineError(faults.WORKFLOW_INVALID, f"workflow: {error}") from error
    known = USUAL.union(allowed)
    if foreign := sorted({str(node["class_type"]) for node in graph.values()} - known):
        named = ", ".join(foreign[:8]) + (", …" if len(foreign) > 8 else "")
        text = f"workflow: the owner of the server has not allowed {named}: see inline_nodes in comfyui.toml"
        raise EngineError(faults.NODE_NOT_ALLOWED, text)
    outputs = frozenset(
        name
        for name, node in graph.items()
        if PREFIX in node.get("inputs", {}) and node["class_type"] != "PreviewImage"
    )
    if not outputs:
        text = "workflow: no node of it writes files under a prefix: add a SaveImage node"
        raise EngineError(faults.WORKFLOW_INVALID, text)
    linked = [name for name in outputs if isinstance(graph[name]["inputs"][PREFIX], list)]
    if linked:
        text = f"workflow: node {linked[0]}: {PREFIX} is linked to another node; we put our own there"
        raise EngineError(faults.WORKFLOW_INVALID, text)
    return Workflow(NAME, "A workflow of the job's own", graph, {}, outputs)
