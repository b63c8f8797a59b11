"""Writes to hf_models.json what transformers says of the configs in it; tests compare with that.

    pip install -r requirements-peers.txt
    python tests/costs/hf_reference.py

Tiny models are built with random weights in bfloat16, read some tokens and show their caches;
public ones are built without weights, and their parameters are counted.
"""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

MODELS = Path(__file__).parent / "hf_models.json"
TOKENS = 12


def build(given: dict, device: str) -> torch.nn.Module:
    fields = {name: value for name, value in given.items() if name != "quantization_config"}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    options = dict(dtype=torch.bfloat16, experts_implementation="eager")
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, **options)
    model.tie_weights()
    return model


def parameters(model: torch.nn.Module) -> int:
    return sum({id(each): each.numel() for each in model.parameters()}.values())


def size(array: torch.Tensor) -> int:
    return array.numel() * array.element_size()


def layers(model: torch.nn.Module) -> list[dict]:
    """Returns, for each layer, bytes of a token, constant bytes and the window."""
    cache = DynamicCache(config=model.config)
    name = "cache_params" if model.config.model_type in ("mamba", "mamba2") else "past_key_values"
    with torch.no_grad():
        model(torch.arange(1, 1 + TOKENS)[None], use_cache=True, **{name: cache})
    found = []
    for layer in cache.layers:
        token, window = 0, getattr(layer, "sliding_window", None)
        if getattr(layer, "keys", None) is not None and layer.keys.numel():
            # A dynamic cache leaves out the token of the window that a step is about to write.
            kept = TOKENS if window is None else min(window - 1, TOKENS)
            assert layer.keys.shape[2] == kept
            token = (size(layer.keys) + size(layer.values)) // kept
        states = [getattr(layer, each, None) or {} for each in ("conv_states", "recurrent_states")]
        arrays = [each for state in states for each in state.values() if each is not None]
        found.append(dict(token=token, constant=sum(map(size, arrays)), window=window))
    for module in model.modules():  # RecurrentGemma keeps its states beside the cache
        if hasattr(module, "conv1d_state"):
            index = next(i for i, each in enumerate(model.model.layers) if module in each.modules())
            found[index]["constant"] += size(module.conv1d_state)
            found[index]["constant"] += size(module.rg_lru.recurrent_states)
    return found


def main() -> None:
    models = json.loads(MODELS.read_text())
    for entry in models["tiny"].values():
        model = build(entry["config"], "cpu")
        entry |= dict(params=parameters(model), layers=layers(model))
    for entry in models["public"].values():
        entry["params"] = parameters(build(entry["config"], "meta"))
    MODELS.write_text(text(models))


def text(models: dict) -> str:
    """Returns JSON with a line for each model."""
    groups = []
    for group, entries in models.items():
        lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()]
        groups.append(json.dumps(group) + ": {\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(groups) + "\n}\n"


if __name__ == "__main__":
    main()
