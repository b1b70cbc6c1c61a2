"""The registry of models: `models.toml` as shipped, with the owner's file laid over it. docs/models.md explains it."""

from anime_generator.registry.entries import Defaults, Option, Precision
from anime_generator.registry.load import load_registry
from anime_generator.registry.reading import BUILT_IN, CONFIGURATIONS, SHIPPED, RegistryError
from anime_generator.registry.specs import (
    FIELDS,
    EmbeddingSpec,
    LoraSpec,
    ModelSpec,
    Registry,
    settings_problem,
)

__all__ = [
    "BUILT_IN",
    "CONFIGURATIONS",
    "FIELDS",
    "SHIPPED",
    "Defaults",
    "EmbeddingSpec",
    "LoraSpec",
    "ModelSpec",
    "Option",
    "Precision",
    "Registry",
    "RegistryError",
    "load_registry",
    "settings_problem",
]
