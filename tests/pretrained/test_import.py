"""scripts/import_hf.py: a run that other programs read, and mistakes that are one line."""

import contextlib
import importlib.util
import json
import math
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

import seqarch
from seqarch.config import ModelConfig
from seqarch.errors import UserError
from seqarch.evals.evaluate import evaluate
from seqarch.files import read_json
from seqarch.model import count_parameters
from seqarch.patterns import parse_pattern
from seqarch.pretrained import weights
from seqarch.pretrained.families import period, read_import
from seqarch.pretrained.run import import_run
from seqarch.tasks.text import tokens
from seqarch.tasks.text.prepare import prepare
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.state import make_init
from tests.conftest import TESTS
from tests.pretrained.cases import CASES, draw
from tests.pretrained.test_logits import EXPECTED
from tests.tasks.text.test_tokenizer import spec

VOCAB, BEGIN = 264, 260  # three tokens more than the tokenizer has
HAS_SAFETENSORS = importlib.util.find_spec("safetensors") is not None
TEXTS = [f"the {n} the then".encode() * 3 for n in range(5)]


def weights_of(name, vocab):
    """Returns drawn weights of one of CASES, with another vocabulary."""
    made = {}
    for each, shape in EXPECTED[name]["weights"].items():
        is_vocab = each.endswith(("embed_tokens.weight", "embeddings.weight", "lm_head.weight"))
        made[each] = draw(each, (vocab, *shape[1:]) if is_vocab else tuple(shape))
    return made


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the directory of a model, with changes of its config and its weights.

    Without the package safetensors, one file of weights is a dict; several need the package.
    """

    def write(name="qwen3", parts=1, dtype=np.float32, weights=None, **changes):
        directory = tmp_path / "model"
        directory.mkdir(exist_ok=True)
        ids = dict(vocab_size=VOCAB, bos_token_id=BEGIN, eos_token_id=[BEGIN])
        (directory / "config.json").write_text(json.dumps(CASES[name] | ids | changes))
        (directory / "tokenizer.json").write_text(json.dumps(spec()))
        arrays = weights_of(name, VOCAB) | (weights or {})
        arrays = {each: array.astype(dtype) for each, array in arrays.items() if array is not None}
        if parts == 1 and not HAS_SAFETENSORS:
            given = contextlib.nullcontext(arrays)
            monkeypatch.setattr("seqarch.pretrained.run.Weights", lambda directory: given)
            return directory
        numpy = pytest.importorskip("safetensors.numpy")
        if parts == 1:
            numpy.save_file(arrays, directory / "model.safetensors")
            return directory
        files = {each: f"part-{n % parts}.safetensors" for n, each in enumerate(arrays)}
        for file in set(files.values()):
            kept = {each: array for each, array in arrays.items() if files[each] == file}
            numpy.save_file(kept, directory / file)
        index = dict(metadata={}, weight_map=files)
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        return directory

    return write


@pytest.mark.slow
def test_an_imported_run_is_scored_and_generates(write, tmp_path, run_here):
    run = tmp_path / "run"
    done = run_here("scripts/import_hf.py", str(write()), f"--workdir={run}", "--length=16")
    assert done.returncode == 0, done.stderr
    assert "prepare text for it with python scripts/prepare_data.py" in done.stdout
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / f"texts/{number}.txt").write_bytes(text)
    encoder = str(run / "tokenizer.json")
    meta = prepare(str(tmp_path / "texts/*"), str(run / "text"), tokenizer_path=encoder)
    assert (meta["vocab"], meta["boundary"]) == (VOCAB, BEGIN)

    results = evaluate(run, only=["quality"], progress=lambda line: None)
    loaded = seqarch.load_run(run)
    assert loaded.step == 0 and loaded.model.boundary == BEGIN and loaded.model.head is None
    nats, size = 0.0, 0
    for document in tokens.open_split(run / "text", "validation").documents:
        content = tokens.open_split(run / "text", "validation").read_tokens(document)
        given = np.concatenate([[BEGIN], content[:-1]])
        logits = np.asarray(loaded.model(given[None])[0], np.float64)
        log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        nats -= log_p[np.arange(len(content)), content].sum()
        size += len(loaded.tokenizer.decode(content))
    expected = nats / size / math.log(2)
    assert results.value("quality", "bits_per_byte_carried") == pytest.approx(expected, rel=1e-4)

    done = run_here("scripts/generate.py", f"--workdir={run}", "--prompt=the", "--steps=4")
    assert done.returncode == 0 and done.stdout.startswith("the")


@pytest.mark.parametrize(("parts", "dtype"), [(1, np.float16), (3, ml_dtypes.bfloat16)])
def test_parts_and_short_floats_are_read(write, tmp_path, run_here, parts, dtype):
    run = tmp_path / "run"
    done = run_here("scripts/import_hf.py", str(write("llama", parts, dtype)), f"--workdir={run}")
    assert done.returncode == 0, done.stderr
    model = seqarch.load_run(run).model
    expected = weights_of("llama", VOCAB)["lm_head.weight"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(model.head[...], expected.T)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(model))
    assert read_json(run / "run.json")["imported"]["model_type"] == "llama"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("qwen3", {"lm_head.weight": np.ones((VOCAB, 16))}),  # tied: the embedding stands for it
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)}),
        ("mamba", {"backbone.embeddings.weight": None, "backbone.embedding.weight": True}),
    ],
)
def test_names_of_older_files_are_known(write, tmp_path, name, more):
    if "backbone.embedding.weight" in more:
        pytest.importorskip("safetensors")
        more["backbone.embedding.weight"] = weights_of(name, VOCAB)["backbone.embeddings.weight"]
    import_run(write(name, weights=more), tmp_path / "run", say=lambda line: None)
    assert (tmp_path / "run/config.json").exists()


def test_tokens_that_a_config_does_not_name_are_those_of_transformers():
    plain = dict(CASES["recurrent_gemma"])
    imported = read_import(plain)
    assert (imported.config.boundary, imported.end) == (2, 1)
    imported = read_import(plain | dict(bos_token_id=None, eos_token_id=[7, 8]))
    assert (imported.config.boundary, imported.end) == (7, 7)
    imported = read_import(CASES["qwen3"])
    assert imported.config.boundary == imported.end == imported.config.vocab - 1


def test_training_does_not_go_on_from_imported_weights(write, tmp_path):
    config = import_run(write("llama"), tmp_path / "run", say=lambda line: None)
    state = make_init(config)
    abstract = jax.eval_shape(state, jax.random.key(0))
    with pytest.raises(UserError, match="has imported weights without an optimizer's state"):
        with Checkpointer(tmp_path / "run/checkpoints") as checkpoints:
            checkpoints.restore(abstract)


def test_a_directory_with_a_run_stays_as_it_is(write, tmp_path, run_here):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    done = run_here("scripts/import_hf.py", str(write()), f"--workdir={run}")
    assert done.returncode == 2 and "holds a run already; give another --workdir" in done.stderr
    assert (run / "config.json").read_text() == "{}"


MISTAKES = [  # a family, changes of its config, words of the answer
    ("qwen3", dict(model_type="qwen4"), "unknown model_type 'qwen4'; did you mean 'qwen"),
    ("qwen3", dict(hidden_act="relu"), "hidden_act is 'relu'; known: silu"),
    ("qwen3", dict(rms_norm_eps="small"), "rms_norm_eps is 'small'; give a number above 0"),
    ("qwen3", dict(rope_scaling=[]), "rope_scaling is []; give fields"),
    ("qwen3", dict(rope_scaling=dict(type="dynamic", factor=2)), "type is 'dynamic'; known: def"),
    ("qwen3", dict(rope_scaling=dict(type="linear")), "config.json: rope_scaling: factor is miss"),
    ("qwen3", dict(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5; this family rotates"),
    ("qwen3", dict(bos_token_id=999), "bos_token_id is 999; give a token below vocab_size, 264"),
    ("qwen3", dict(quantization_config=dict(quant_method="awq")), "weights are quantised (awq)"),
    ("qwen3", dict(num_hidden_layers=1), "has weights that its config.json does not tell of: mo"),
    ("qwen3", dict(num_hidden_layers=3), "has no weight model.layers.2.self_attn.k_proj.weight"),
    ("qwen3", dict(intermediate_size=8), "gate_proj.weight of shape [20, 16], which do not make"),
    ("qwen3", dict(vocab_size=128), "bos_token_id is 260"),
    ("qwen3", dict(vocab_size=250, bos_token_id=0, eos_token_id=0), "tokenizer.json has 261 tok"),
    ("mamba2", dict(time_step_limit=[0, 0.1]), "time_step_limit is [0, 0.1]; bounds of time steps"),
    (
        "mamba",
        dict(time_step_rank=3),
        "dt_proj.weight of shape [32, 2], which do not make the [3, 32]",
    ),
    ("mamba", dict(expand=3), "mixer.D of shape [32], which do not make the [48]"),
    (
        "qwen3",
        dict(model_type="mixtral", num_local_experts=8),
        "mixtral has 8 experts; a mixture of experts has no counterpart",
    ),
    (
        "qwen3",
        dict(model_type="qwen3_5_text", linear_num_value_heads=2, linear_num_key_heads=2)
        | dict(linear_key_head_dim=4, linear_value_head_dim=4),
        "weights of qwen3_5_text are not read (scripts/plan.py --hf can plan it); those of llama",
    ),
]


@pytest.mark.parametrize(("name", "changes", "words"), MISTAKES)
def test_a_mistake_is_a_line(write, tmp_path, run_here, name, changes, words):
    done = run_here(
        "scripts/import_hf.py", str(write(name, **changes)), f"--workdir={tmp_path / 'run'}"
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert words in done.stderr, done.stderr
    assert not list((tmp_path / "run").glob("*"))


def test_weights_that_are_not_finite_are_a_line(write, tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    directory = write("llama", weights={name: np.full((24, 16), np.nan)})
    with pytest.raises(UserError, match=f"has numbers in {name} that are not finite"):
        import_run(directory, tmp_path / "run", say=lambda line: None)
    assert not list((tmp_path / "run").glob("*"))


def test_files_that_are_missing_or_damaged_are_a_line(write, tmp_path, run_here):
    pytest.importorskip("safetensors")

    def answer(path):
        done = run_here("scripts/import_hf.py", str(path), f"--workdir={tmp_path / 'run'}")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        return done.stderr

    assert "there is no" in answer(tmp_path / "nowhere")
    directory = write(parts=2)
    (directory / "part-1.safetensors").unlink()
    assert "names part-1.safetensors, which is not beside it" in answer(directory)
    (directory / "part-1.safetensors").write_text("{}")
    assert "part-1.safetensors is no file of safetensors" in answer(directory)
    (directory / "model.safetensors.index.json").write_text("[]")
    assert "is no index of weights" in answer(directory)
    (directory / "model.safetensors.index.json").unlink()
    (directory / "pytorch_model.bin").write_text("")
    assert "it has pytorch_model.bin, which is not read" in answer(directory)


def test_without_the_package_a_line_says_what_to_install(write, tmp_path, run_here, monkeypatch):
    directory = write()
    monkeypatch.setattr("seqarch.pretrained.run.Weights", weights.Weights)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    done = run_here("scripts/import_hf.py", str(directory), f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "weights need safetensors; pip install -r requirements-hf.txt" in done.stderr


def test_weights_in_whole_numbers_are_a_line(write, tmp_path, run_here):
    pytest.importorskip("safetensors")
    done = run_here(
        "scripts/import_hf.py", str(write(dtype=np.int32)), f"--workdir={tmp_path / 'run'}"
    )
    assert done.returncode == 2 and "in I32; weights are read in float32, bfloat16" in done.stderr


def test_the_shortest_pattern_is_found():
    layers = parse_pattern("gru,gru,lstm,gru,gru,lstm,gru")
    assert period(layers) == layers[:3] and period(layers[:3]) == layers[:3]
    assert period(layers[:2]) == layers[:1]
    assert isinstance(read_import(CASES["llama"]).config, ModelConfig)


def test_a_model_of_defaults_is_named_without_options():
    public = read_json(TESTS / "costs/hf_models.json")["public"]["mamba-130m-hf"]["config"]
    config = read_import(public).config
    assert (config.mixer, config.layers, config.dim, config.vocab) == ("mamba", 24, 768, 50280)
    assert count_parameters(config) == 129_135_360
