"""Writes to logits.json the logits that transformers computes for the models of cases.py.

pip install -r requirements-peers.txt
python tests/pretrained/reference.py
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.pretrained.cases import CASES, draw, tokens

LOGITS = Path(__file__).parent / "logits.json"
CACHES = {"mamba": "cache_params", "mamba2": "cache_params"}


def build(given: dict) -> tuple[torch.nn.Module, dict[str, list[int]]]:
    """Returns a model with drawn weights, and the shapes of those that its file would hold."""
    fields = dict(given)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.config._attn_implementation = "eager"
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    shapes = {name: list(weight.shape) for name, weight in state.items()}
    drawn = {name: torch.from_numpy(draw(name, tuple(shape))) for name, shape in shapes.items()}
    model.load_state_dict(drawn, strict=False)
    model.tie_weights()
    return model.eval(), shapes


def logits(model: torch.nn.Module, given) -> torch.Tensor:
    """Returns the logits of a prompt; those of single steps must be the same."""
    given = torch.from_numpy(given)
    with torch.no_grad():
        whole = model(given, use_cache=False).logits
        name = CACHES.get(model.config.model_type, "past_key_values")
        cache, parts = DynamicCache(config=model.config), []
        for at in range(given.shape[1]):
            options = {name: cache, "use_cache": True}
            if name == "past_key_values":
                options["position_ids"] = torch.full((len(given), 1), at)
            parts.append(model(given[:, at : at + 1], **options).logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)
    return whole


def main() -> None:
    lines = []
    for name, config in CASES.items():
        model, shapes = build(config)
        found = [
            [[float(f"{x:.6g}") for x in row] for row in text]
            for text in logits(model, tokens()).tolist()
        ]
        entry = dict(weights=shapes, logits=found)
        lines.append(f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}")
        print(name)
    LOGITS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
