"""Configs: read from a ConfigDict, checked, and resolved for a machine.

config = parse(config_dict)          # raises UserError for unknown fields, types and values
resolved = resolve(config, mesh)     # names the forms of mixers and the sizes of the mesh
"""

from seqarch.config.fields import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    MeshConfig,
    OptimConfig,
    SeedConfig,
)
from seqarch.config.forms import (
    recorded_forms,
    resolve,
    resolve_model,
    with_forms,
    with_recorded_forms,
    without_forms,
)
from seqarch.config.model import ModelConfig
from seqarch.config.reading import flatten, parse, to_dict

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "SeedConfig",
    "flatten",
    "parse",
    "recorded_forms",
    "resolve",
    "resolve_model",
    "to_dict",
    "with_forms",
    "with_recorded_forms",
    "without_forms",
]
