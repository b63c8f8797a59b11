"""ConfigDict in, frozen dataclasses out: the one place that knows ml_collections, and where a
config is validated.

config = seqarch.config.parse(config_dict)            # unknown fields and wrong types: UserError
model_config = with_forms(config.model, "tpu")        # method="auto" becomes a named form, for the
target
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import ml_collections
import numpy as np

from seqarch.errors import UserError, unknown
from seqarch.mixers import resolve_mixer
from seqarch.patterns import Layer, Stack, parse_pattern, read_pattern

FORM_OPTIONS = ("method", "chunk", "block")  # of a mixer: how it computes, not what
PRECISIONS = ("highest", "high", "default")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(
                f"config field {name} is {getattr(config, name)}; give a number of at least 1"
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The language model.

    mixer: the layer pattern, cycled over the depth: "mamba", "mamba,mamba,attention(window=128)"
    layers: depth; what the pattern leaves over becomes the tail
    dim: width D of the residual stream
    mlp: inner width F of the gated MLP in each block; 0 for none
    conv: width W of a short causal convolution before each mixer; 0 for none
    vocab: tokens of the text, of which the last is the boundary: 257 for bytes, else what
      prepare_data.py said
    dtype: of the computation, "float32" or "bfloat16"; parameters are always float32
    precision: of products of float32 with parameters: "highest" is float32; "default" what the
      device does fastest (bfloat16 on TPUs, TF32 on GPUs); "high" is between the two. Products in
      recurrences and softmax are float32 whatever it says
    remat: recompute each block's activations in the backward pass; on CPU XLA keeps those of the
      tail
    dropout: rate of dropout after each mixer and MLP, in [0, 1)
    """

    mixer: str = "mamba"
    layers: int = 4
    dim: int = 128
    mlp: int = 256
    conv: int = 0
    vocab: int = 257
    dtype: str = "float32"
    precision: str = "highest"
    remat: bool = False
    dropout: float = 0.0

    def __post_init__(self):
        _positive(self, "layers", "dim", "vocab")
        if min(self.mlp, self.conv) < 0:
            raise UserError(
                f"model.mlp is {self.mlp} and model.conv {self.conv}; give widths, or 0 for none"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout is {self.dropout}; give a rate in [0, 1)")
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("model.dtype", self.dtype, ("float32", "bfloat16"))
        if self.precision not in PRECISIONS:
            raise unknown("model.precision", self.precision, PRECISIONS)

    @property
    def stack(self) -> Stack:
        pattern = parse_pattern(self.mixer)
        if len(pattern) > self.layers:
            raise UserError(
                f"model.mixer {self.mixer!r} names {len(pattern)} layers, model.layers is "
                f"{self.layers}; give as many"
            )
        repeats, rest = divmod(self.layers, len(pattern))
        return Stack(pattern, repeats, pattern[:rest])


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up, then a cosine down to the last step.

    lr: the learning rate at the end of the warm-up, the highest
    warmup: steps of the warm-up
    final_lr: the learning rate at the last step, as a fraction of `lr`
    b1: decay of the mean of gradients
    b2: decay of the mean of their squares
    weight_decay: fraction of a weight that goes at each step, times the learning rate
    clip: the largest global norm of gradients; inf for no clipping
    accumulate: micro-batches per step, into which `batch` is divided
    z_loss: weight of log(Z)^2 in the loss; 0 for none
    """

    lr: float = 3e-3
    warmup: int = 50
    final_lr: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    z_loss: float = 0.0

    def __post_init__(self):
        _positive(self, "accumulate")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if math.isfinite(value) and abs(value) > float(np.finfo(np.float32).max):
                raise UserError(
                    f"optim.{field.name} is {value}, infinite in float32; give a smaller number"
                )
        if not (0 < self.lr < math.inf and self.clip > 0):
            raise UserError(
                f"optim.lr is {self.lr} and optim.clip {self.clip}; give numbers above 0 "
                "(clip=inf: no clipping)"
            )
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise UserError(f"optim.b1 is {self.b1} and optim.b2 {self.b2}; give numbers in [0, 1)")
        if not all(
            0 <= value < math.inf
            for value in (self.warmup, self.final_lr, self.weight_decay, self.z_loss)
        ):
            raise UserError(
                "optim.warmup, final_lr, weight_decay and z_loss must be finite and at least 0"
            )


@dataclasses.dataclass(frozen=True)
class SeedConfig:
    """Seeds, in [0, 2^32).

    model: of the initial parameters and of dropout
    data: of the order in which the text is read
    """

    model: int = 0
    data: int = 0

    def __post_init__(self):
        for name, seed in dataclasses.asdict(self).items():
            if not 0 <= seed < 2**32:
                raise UserError(f"seed.{name} is {seed}; give a number in [0, 2^32)")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The text.

    path: "shakespeare", or a directory that scripts/prepare_data.py wrote
    """

    path: str = "shakespeare"


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When states are saved.

    every: steps between checkpoints; 0 for one at the end alone
    keep: how many of the newest stay
    """

    every: int = 200
    keep: int = 2

    def __post_init__(self):
        _positive(self, "keep")
        if self.every < 0:
            raise UserError(
                f"checkpoint.every is {self.every}; give a number of steps, or 0 for the end alone"
            )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Validation, and how held-out documents are scored.

    every: steps between validations; 0 for one at the end alone
    batch: rows that are scored at once
    limit: bytes (not tokens) of each held-out document that are scored, from its beginning; 0 for
      all, which takes attention, its cache carried over whole works, time that grows with the
      square of their length
    """

    every: int = 200
    batch: int = 16
    limit: int = 16384

    def __post_init__(self):
        if self.batch < 1 or min(self.every, self.limit) < 0:
            raise UserError(
                f"eval.batch is {self.batch}, eval.every {self.every} and eval.limit {self.limit}; "
                "give at least 1 row, and for the others numbers of at least 0"
            )


Evals = Mapping[str, Mapping[str, Any]]


def default_evals() -> Evals:
    """All evaluators, with their own options."""
    return {name: {} for name in ("quality", "context", "flops", "speed", "memory")}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; -1 for what the other leaves.

    data: devices that split the batch
    fsdp: devices that split the batch and the parameters
    """

    data: int = 1
    fsdp: int = -1


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: one model, one corpus, one budget of `steps` x `batch` x `length` tokens.

    steps: updates of the parameters
    batch: rows per step
    length: tokens per row
    evals: what eval.py measures: names in seqarch.evals.EVALUATORS with their options
    log_every: steps between fetches of metrics from the device
    profile: the step at which a profiler trace of five steps starts; 0 for none
    """

    steps: int = 1000
    batch: int = 16
    length: int = 256
    log_every: int = 10
    profile: int = 0
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    seed: SeedConfig = SeedConfig()
    data: DataConfig = DataConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    evals: Evals = dataclasses.field(default_factory=default_evals, hash=False)
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        _positive(self, "steps", "batch", "length", "log_every")
        if self.profile < 0:
            raise UserError(f"profile is {self.profile}; give a step, or 0 for none")
        if self.batch % self.optim.accumulate:
            raise UserError(
                f"batch {self.batch} does not divide into optim.accumulate "
                f"{self.optim.accumulate} micro-batches"
            )


def parse(given: ml_collections.ConfigDict | dict) -> Config:
    """Validates a ConfigDict or a plain dict (a run's config.json); raises UserError."""
    return _build(
        Config, given.to_dict() if isinstance(given, ml_collections.ConfigDict) else given, ""
    )


def to_dict(config: Config) -> dict:
    """The plain dict that `parse` reads back; JSON-ready."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return flat


def with_forms(
    model: ModelConfig, platform: str, tuned: Mapping[str, dict[str, Any]] = MappingProxyType({})
) -> ModelConfig:
    """`model` with method="auto" of every mixer replaced by the form that its op prefers on
    `platform`.

    platform: "cpu", "gpu" or "tpu": the target of the program, which is not always the host.
    tuned: by mixer, the options that were the fastest on that very device, preferred where there
      are any; what the layer itself says goes before them
    """

    def chosen(layer: Layer) -> dict[str, Any]:
        return tuned.get(layer.mixer) or {"method": resolve_mixer(layer.mixer).forms.auto(platform)}

    return _each_layer(model, lambda layer: _with_form(layer, chosen))


def with_recorded_forms(model: ModelConfig, recorded: str) -> ModelConfig:
    """Returns `model` with the forms of the layer pattern `recorded`, where it leaves them open.

    Only FORM_OPTIONS are taken from `recorded`; nothing that it names is imported.

    Raises: UserError: where `recorded` is no pattern, is of other mixers, or has a form that there
        is not.
    """
    theirs = read_pattern(recorded)
    ours = parse_pattern(model.mixer)
    if [layer.mixer for layer in theirs] != [layer.mixer for layer in ours]:
        raise UserError(f"{recorded!r} is not of the mixers of {model.mixer!r}")
    forms = [
        {name: value for name, value in layer.options if name in FORM_OPTIONS} for layer in theirs
    ]
    layers = [
        _with_form(layer, lambda _, form=form: form)
        for layer, form in zip(ours, forms, strict=True)
    ]
    pattern = ",".join(map(str, layers))
    parse_pattern(pattern)
    return dataclasses.replace(model, mixer=pattern)


def _with_form(layer: Layer, choose: Callable[[Layer], dict[str, Any]]) -> Layer:
    """`layer` with the options that `choose` gives for it, where its mixer has forms and it leaves
    its form open.
    """
    forms, given = getattr(resolve_mixer(layer.mixer), "forms", None), dict(layer.options)
    if forms is None:
        return layer
    if given.get("method", "auto") != "auto":
        forms.pick(given["method"])  # refuses an unknown one, before anything is built
        return layer
    given.pop("method", None)
    return Layer(layer.mixer, tuple((given | choose(layer) | given).items()))


def without_forms(model: ModelConfig) -> ModelConfig:
    """`model` without the method of any mixer that has forms: a form is one of sequences, a single
    step has none.
    """

    def drop(layer: Layer) -> Layer:
        if getattr(resolve_mixer(layer.mixer), "forms", None) is None:
            return layer
        return Layer(
            layer.mixer, tuple(option for option in layer.options if option[0] != "method")
        )

    return _each_layer(model, drop)


def _each_layer(model: ModelConfig, change: Callable[[Layer], Layer]) -> ModelConfig:
    return dataclasses.replace(
        model, mixer=",".join(str(change(layer)) for layer in parse_pattern(model.mixer))
    )


def _build(cls: type, given: dict, where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in given:
        if name not in fields:
            raise unknown("config field", where + name, [where + known for known in fields])
    return cls(
        **{name: _convert(fields[name].type, value, where + name) for name, value in given.items()}
    )


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            known = ", ".join(field.name for field in dataclasses.fields(kind))
            raise UserError(f"config field {where} is {value!r}; it has fields: {known}")
        return _build(kind, value, where + ".")
    if kind == Evals:
        return _options(value, where)
    if kind == tuple[int, ...]:
        if not isinstance(value, (tuple, list)):
            raise UserError(
                f"config field {where} is {value!r}; expected several numbers, such as (1024, 4096)"
            )
        return tuple(_convert(int, item, where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and type(value) is int:
        return _in_range(value, where)
    if type(value) is not kind:
        raise UserError(
            f"config field {where} is {value!r}, a {type(value).__name__}; expected {kind.__name__}"
        )
    return value


def _options(given: Any, where: str) -> Evals:
    """Options by evaluator; lists, as JSON has them, are tuples, as a config file has them."""
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise UserError(
            f"config field {where} is {given!r}; give options by evaluator, such as "
            "dict(quality=dict())"
        )

    def option(value: Any, name: str) -> Any:
        if isinstance(value, (list, tuple)):
            return tuple(option(each, name) for each in value)
        return _in_range(value, name) if type(value) is int else value

    return {
        name: {key: option(value, f"{where}.{name}.{key}") for key, value in options.items()}
        for name, options in given.items()
    }


def _in_range(value: int, where: str) -> int:
    """Returns `value`; seeds, which check themselves, go to 2^32, all else is below 2^31."""
    if abs(value) >= 2**31 and not where.startswith("seed."):
        raise UserError(f"config field {where} is {value}; give a number below 2^31")
    return value
