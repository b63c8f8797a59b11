"""Models from outside need what transformers allocates, and what others published of them.

hf_models.json holds configs with what transformers 5.23.0 said of them; hf_reference.py wrote it.
"""

import json
from pathlib import Path

import pytest

from seqarch import records
from seqarch.costs.devices import place
from seqarch.costs.hf.families import FAMILIES, describe, read_model
from seqarch.costs.hf.plan import outside_records, outside_source
from seqarch.errors import UserError
from seqarch.records import Fact, Results

MODELS = json.loads((Path(__file__).parent / "hf_models.json").read_text())
TINY, PUBLIC = MODELS["tiny"], MODELS["public"]
GIB = 2**30


def public(name, **changes):
    return describe(PUBLIC[name]["config"] | changes)


def tiny(name, **changes):
    return describe(TINY[name]["config"] | dict(dtype="bfloat16") | changes)


@pytest.mark.parametrize("name", TINY)
def test_parameters_and_states_are_those_of_transformers(name):
    model, said = tiny(name), TINY[name]
    assert model.params == said["params"]
    assert len(model.layers) == len(said["layers"])
    for layer, each in zip(model.layers, said["layers"], strict=True):
        assert model.bytes_of(layer.cache) == each["token"], layer
        assert model.constant_bytes(layer) == each["constant"], layer
        assert layer.window == each["window"], layer


@pytest.mark.parametrize("name", PUBLIC)
def test_public_models_have_the_parameters_that_transformers_counts(name):
    assert public(name).params == PUBLIC[name]["params"]


def test_every_family_is_compared_with_transformers():
    assert {each["config"]["model_type"] for each in TINY.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "params"),
    [  # as the pages of their checkpoints say
        ("Llama-3.1-8B", 8_030_261_248),
        ("Mistral-7B-v0.1", 7_241_732_096),
        ("mamba-130m-hf", 129_135_360),
        ("Nemotron-Nano-9B-v2", 8_888_227_328),
        ("gpt-oss-20b", 20_914_757_184),
        ("Mixtral-8x7B-v0.1", 46_702_792_704),
        ("Qwen2.5-0.5B", 494_032_768),
        ("Qwen3-30B-A3B", 30_532_122_624),
        ("granite-4.0-h-small", 32_207_337_984),
    ],
)
def test_public_models_have_the_published_number_of_parameters(name, params):
    assert public(name).params == params


def test_a_cache_grows_by_the_keys_and_values_of_each_token():
    model = public("Llama-3.1-8B")
    assert model.state_bytes(1) == model.growing_bytes(1) == 131_072
    assert model.state_bytes(131_072) == 16 * GIB


def test_windows_bound_the_cache_in_their_layers_alone():
    """32 sequences of gpt-oss-20b: 6.09 GiB; 12 GiB where an engine keeps all tokens everywhere.

    Source: github.com/alvarobartt/hf-mem/pull/70.
    """
    model = public("gpt-oss-20b")
    assert 32 * model.state_bytes(8192) / GIB == pytest.approx(6.09, abs=0.005)
    assert 32 * model.unbounded_bytes(8192) == 12 * GIB
    assert model.state_bytes(128) == 2 * model.growing_bytes(128) == 128 * 24 * 2048
    assert model.growing_bytes(127) == model.state_bytes(127) == 127 * 24 * 2048


def test_experts_in_mxfp4_take_17_bytes_for_32_numbers():
    """gpt-oss-120b takes 65,248,815,744 bytes, and 73,728 for the first token of a sequence.

    Source: github.com/alvarobartt/hf-mem/issues/60, the second as vLLM's log shows it.
    """
    model = public("gpt-oss-20b", num_hidden_layers=36, num_local_experts=128)
    assert (model.params, model.parameters_bytes) == (116_829_156_672, 65_248_815_744)
    assert model.state_bytes(1) == 73_728
    plain = public("gpt-oss-20b", quantization_config=None)
    assert plain.parameters_bytes == 2 * plain.params


def test_falcon_h1_keeps_a_cache_and_a_recurrent_state_in_each_layer():
    """transformers 5.14.1 showed [1, 2, T, 64] twice, [1, 1792, 4] and [1, 24, 64, 128]."""
    model = public("Falcon-H1-0.5B")
    constant = 36 * (2 * 1792 * 4 + 4 * 24 * 64 * 128)
    assert model.state_bytes(100) == constant + 36 * 100 * 2 * 2 * 2 * 64


def test_recurrent_models_keep_the_same_at_any_context():
    for name in ("mamba-130m-hf", "mamba2-Codestral-7B"):
        model = public(name)
        assert model.state_bytes(1) == model.state_bytes(2**20) > model.growing_bytes(1) == 0


def test_recurrent_states_stay_in_float32():
    half, full = (public("mamba-130m-hf", torch_dtype=name) for name in ("bfloat16", "float32"))
    convolutions = 24 * 1536 * 4
    assert full.state_bytes(1) - half.state_bytes(1) == 2 * convolutions


def found(name, contexts=(4096,), target=None, **changes):
    yielded = outside_records(public(name, **changes), contexts, target and place(target))
    facts = {}
    made = []
    for each in yielded:
        if isinstance(each, Fact):
            facts[each.name] = each.value
        else:
            made.append(each)
    return {(each.metric, each.at.get("context")): each for each in made}, facts


def test_records_hold_every_layer():
    made, facts = found("Nemotron-Nano-9B-v2")
    layers = made["layer_params", None].value
    assert len(layers) == len(facts["layer_kinds"]) == 56
    assert sum(layers) + made["params_around", None].value == made["params", None].value
    assert facts["layer_kinds"][14] == "attention" and facts["state_dtypes"] == ["float32"]
    state = made["state_bytes", 4096].value
    assert state == made["growing_bytes", 4096].value + made["constant_bytes", 4096].value
    assert state == sum(made["layer_constant_bytes", None].value) + 4096 * sum(
        made["layer_token_bytes", None].value
    )


def test_a_context_beyond_the_positions_of_the_config_is_marked():
    made, _ = found("Llama-3.1-8B", (131_072, 131_073))
    assert made["state_bytes", 131_072].note == ""
    assert "131,072 positions" in made["state_bytes", 131_073].note


def test_sequences_share_what_the_parameters_leave():
    made, _ = found("Llama-3.1-8B", (131_072,), "gpu-h100")
    assert made["sequences", 131_072].value == (80 * 10**9 - 16_060_522_496) // (16 * GIB) == 3
    made, _ = found("Llama-3.1-8B", (131_072,), "gpu-h100:2")
    assert made["sequences", 131_072].value == (160 * 10**9 - 16_060_522_496) // (16 * GIB)
    made, _ = found("Jamba-1.5-Mini", target="gpu-h100")
    assert made["sequences", 4096].value == 0
    local, _ = found("mamba-130m-hf", target="local")
    assert local["device_bytes", None].value > GIB


def test_a_model_without_state_has_no_largest_number_of_sequences():
    given = dict(hybrid_override_pattern="--", num_hidden_layers=2)
    made, _ = found("Nemotron-Nano-9B-v2", target="gpu-h100", **given)
    assert made["sequences", 4096].status == "over"


def test_what_a_config_leaves_open_is_noted():
    assert public("gpt-oss-20b").notes == ()
    (note,) = public("Llama-3.1-8B", quantization_config={"quant_method": "awq"}).notes
    assert "awq" in note
    model = public("Llama-3.1-8B", torch_dtype=None)
    assert model.dtype == "float32" and "float32" in model.notes[0]


def test_newer_names_of_fields_are_read():
    assert public("Llama-3.1-8B", dtype="torch.float16", torch_dtype=None).dtype == "float16"
    kinds = ["mamba", "full_attention", "mlp"]
    given = dict(hybrid_override_pattern=None, layers_block_type=kinds)
    layers = public("Nemotron-Nano-9B-v2", **given).layers
    assert [layer.kind for layer in layers] == ["mamba2", "attention", "mlp"]


def test_the_text_model_of_several_media_is_planned():
    text = TINY["qwen3_5_text"]["config"]
    values = dict(model_type="qwen3_5", text_config=text, dtype="bfloat16", vision_config={})
    model = describe(values | dict(tie_word_embeddings=True))
    alone = describe(text | dict(dtype="bfloat16", tie_word_embeddings=True))
    assert model.layers == alone.layers and model.params == alone.params
    assert model.name == "qwen3_5" and "Only the text model of qwen3_5" in model.notes[0]


def test_a_missing_field_is_not_null():
    """As in transformers, where null is a value and a missing field has the family's default."""
    config = PUBLIC["Mistral-7B-v0.1"]["config"]
    lacking = {name: value for name, value in config.items() if name != "sliding_window"}
    assert describe(config | dict(sliding_window=None)).layers[0].window is None
    assert describe(lacking).layers[0].window == 4096
    multi_head = describe(config | dict(num_key_value_heads=None)).layers[0]
    assert multi_head.cache == 2 * config["hidden_size"]
    del lacking["num_key_value_heads"]
    with pytest.raises(UserError, match="num_key_value_heads is missing; a mistral config has it"):
        describe(lacking)


MISTAKES = [  # a config, its changes, words of the answer
    ("Llama-3.1-8B", dict(model_type="lama"), "unknown model_type 'lama'; did you mean 'llama'?"),
    ("Llama-3.1-8B", dict(model_type="bert"), "unknown model_type 'bert'; known: falcon_h1, "),
    ("Llama-3.1-8B", dict(model_type=None), "model_type is missing"),
    ("Llama-3.1-8B", dict(model_type=[1]), "model_type is missing"),
    ("Llama-3.1-8B", dict(model_type="x", text_config=dict(model_type=[])), "unknown model_type"),
    (
        "Llama-3.1-8B",
        dict(model_type="t5", is_encoder_decoder=True),
        "t5 is an encoder-decoder model; only decoders are planned",
    ),
    ("Llama-3.1-8B", dict(hidden_size=None), "hidden_size is missing; a llama config has it"),
    ("Llama-3.1-8B", dict(vocab_size="many"), "vocab_size is 'many'; give a whole number from 1"),
    ("Llama-3.1-8B", dict(vocab_size=True), "vocab_size is True"),
    ("Llama-3.1-8B", dict(vocab_size=2**41), "give a whole number from 1 to 2^40"),
    ("Llama-3.1-8B", dict(num_hidden_layers=10**6), "num_hidden_layers is 1000000; give at most"),
    ("Llama-3.1-8B", dict(num_attention_heads=7, num_key_value_heads=7), "7, which does not div"),
    ("Llama-3.1-8B", dict(num_key_value_heads=5), "does not divide num_attention_heads, 32"),
    ("Llama-3.1-8B", dict(attention_bias="no"), "attention_bias is 'no'; give true or false"),
    ("Llama-3.1-8B", dict(torch_dtype="int3"), "dtype is 'int3'; it may be float32, bfloat16"),
    ("gpt-oss-20b", dict(layer_types=["full_attention"]), "layer_types has 1 names, num_hidden"),
    ("gpt-oss-20b", dict(layer_types=["full"] * 24), "unknown name in layer_types: 'full'"),
    ("gpt-oss-20b", dict(layer_types="full"), "layer_types is no list of names"),
    ("mamba2-Codestral-7B", dict(num_heads=3), "their product must be expand times hidden_size"),
    ("Falcon-H1-0.5B", dict(mamba_d_head=65), "does not make up the inner width 1536"),
    ("Qwen3-Next-80B-A3B", dict(mlp_only_layers=3), "mlp_only_layers is 3; give a list of layers"),
    ("Nemotron-Nano-9B-v2", dict(hybrid_override_pattern="MX"), "has 'X'; its letters are M, *,"),
    ("Nemotron-Nano-9B-v2", dict(hybrid_override_pattern=None), "hybrid_override_pattern is miss"),
]


@pytest.mark.parametrize(("name", "changes", "words"), MISTAKES)
def test_what_cannot_be_planned_is_a_line(name, changes, words):
    with pytest.raises(UserError) as raised:
        public(name, **changes)
    assert str(raised.value).startswith("config.json: ") and words in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "is no JSON"), ("[]", "holds no JSON object"), (b"\xff", "is no JSON"), (None, "there")],
)
def test_a_file_without_a_config_is_a_line(tmp_path, content, words):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words):
        read_model(path)
    with pytest.raises(UserError, match="is a directory; give the config.json in it"):
        read_model(tmp_path)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(PUBLIC["gpt-oss-20b"]["config"] | dict(limit=float("inf"))))
    return path


def test_the_program_prints_tables_and_writes_records(path, run_here, tmp_path):
    out = tmp_path / "out"
    target = ("--target=gpu-h100", "--contexts=4096,262144", f"--out={out}")
    done = run_here("scripts/plan.py", f"--hf={path}", *target)
    assert done.returncode == 0, done.stderr
    assert "20,914,757,184" in done.stdout and "neither compiled nor measured" in done.stdout
    assert "262,144 (beyond the 131,072 positions of the config)" in done.stdout
    (results,) = records.read(out / records.NAME).results
    assert results.value("costs", "state_bytes", context=4096) == 12 * 2048 * (4096 + 128)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hf=nowhere.json"], "there is no nowhere.json; give the config.json of a model"),
        (["--hf={path}", "--contexts=0"], "--contexts has '0'; give numbers of tokens"),
        (["--hf={path}", "--contexts=" + "9" * 5000], "; give numbers of tokens below 2^31"),
        (["--hf={path}", "--target=gpu-x100"], "unknown target 'gpu-x100'"),
        (["--hf={path}", "--facts=3"], "--hf and --facts cannot be combined"),
        (["--hf={path}", "--config=configs/lm.py:gru"], "--hf and --config cannot be combined"),
        ([], "--config=VALUE is required"),
    ],
)
def test_a_mistake_is_a_line(path, arguments, words, run_here):
    done = run_here("scripts/plan.py", *(each.format(path=path) for each in arguments))
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_source_names_its_config(path):
    source = outside_source(read_model(path), path)
    assert source.config["hf"]["name"] == "config.json" and source.member == "gpt_oss"
    assert Results(source, ()).source.id == outside_source(read_model(path), path).id
