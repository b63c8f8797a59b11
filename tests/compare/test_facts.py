"""The law inverted: right states and widths, and a refusal of all that was not measured."""

import dataclasses

import pytest

from seqarch import records
from seqarch.compare.facts import needed, read_frontiers
from seqarch.config import Config, ModelConfig
from seqarch.costs.memory import state_bytes
from seqarch.errors import UserError
from seqarch.evals.frontier import NAME, frontiers, slim
from seqarch.report.facts import need_lines
from tests.evals.frontier_runs import made_sweep


@pytest.fixture(scope="module")
def laws(tmp_path_factory):
    path = tmp_path_factory.mktemp("frontier") / "records.jsonl"
    runs = made_sweep()
    records.write(path, [*frontiers(runs), *map(slim, runs)], {"kind": NAME})
    return read_frontiers(path)


def of(mixer, **fields):
    return Config(model=ModelConfig(mixer=mixer, **fields))


def test_the_smallest_model_that_keeps_the_needed_state(laws):
    need = needed(laws, of("gru", layers=5, mlp=64), 3)
    assert need.state.value == pytest.approx(4_000, rel=0.5)
    # a layer keeps h and three inputs of the convolution, of d channels each: 2 x 4 d x 4 bytes
    assert need.width == -(-need.state.value // 32) and need.kept == 32 * need.width
    model = ModelConfig("gru", layers=2, dim=need.width, mlp=0, conv=4, vocab=64)
    assert need.kept == state_bytes(model, 64)


def test_the_lines_name_the_state_the_model_and_the_setting(laws):
    state, model, setting = need_lines(needed(laws, of("gru"), 2))
    assert state.startswith("2 facts need 1.74 KiB [1.74 KiB, 1.74 KiB] of state for 90.0% right")
    assert model == "gru with model.dim=56 keeps 1.75 KiB"
    assert "15 runs at revision 0123abcdef: 2 to 8 pairs, widths 16 to 256" in setting
    assert "2 layers, convolution 4, MLP 0, float32, rows of 64 tokens" in setting


@pytest.mark.parametrize(
    "config, facts, message",
    [
        (of("gru"), 9, "9 facts would be an extrapolation: the law was measured for 2 to 8 pairs"),
        (of("gru"), 1, "1 facts would be an extrapolation"),
        (of("gru", dtype="bfloat16"), 2, "measured in float32, the config has bfloat16"),
        (of("mamba"), 8, "44.2 KiB of state would be an extrapolation: .* 256 to 4096 bytes"),
        (of("gru", kind="encdec", encoder="gru"), 2, "law is that of language models"),
        (of("attention"), 2, "no law was measured for the mixer 'attention'; .* gru, mamba"),
    ],
)
def test_what_was_not_measured_is_refused(laws, config, facts, message):
    with pytest.raises(UserError, match=message):
        needed(laws, config, facts)


def test_a_law_that_hardly_falls_names_no_state(laws):
    change = lambda each: dataclasses.replace(each, value=-1e-3)
    records = tuple(
        change(each) if each.at == {"term": "log2_state"} else each for each in laws[0].records
    )
    with pytest.raises(UserError, match="hardly fell with its state"):
        needed([laws[0]._replace(records=records)], of("gru"), 2)


def test_a_width_beyond_the_measured_ones_is_refused(laws):
    source = laws[0].source
    facts = {NAME: source.facts[NAME] | {"widths": [16, 32]}}
    narrow = laws[0]._replace(source=dataclasses.replace(source, facts=facts))
    with pytest.raises(UserError, match="a width of 56 would be an extrapolation"):
        needed([narrow], of("gru"), 2)


def test_a_window_is_solved_where_the_state_grows(laws):
    source = dataclasses.replace(laws[0].source, member="attention")
    need = needed([laws[0]._replace(source=source)], of("attention", dim=32), 2)
    # keys, values and positions of W tokens, the length, and three inputs of the convolution
    per_token, fixed = 2 * (2 * 32 + 1) * 4, 2 * (1 + 3 * 32) * 4
    window = -(-(need.state.value - fixed) // per_token)
    assert need.mixer == f"attention(window={window:.0f})" and need.width == 32
    narrow = of("attention(heads=8,kv_heads=1)", dim=16)
    with pytest.raises(UserError, match="of width 16 keeps at most 2.88 KiB over 64 tokens"):
        needed([laws[0]._replace(source=source)], narrow, 3)


def test_a_missing_file_and_one_without_a_law_are_told(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nothing.jsonl; scripts/frontier.py writes"):
        read_frontiers(tmp_path / "nothing.jsonl")
    records.write(tmp_path / "records.jsonl", made_sweep())
    with pytest.raises(UserError, match="holds no frontier"):
        read_frontiers(tmp_path / "records.jsonl")


@pytest.mark.parametrize("facts", [{}, {NAME: 3}, {NAME: {"sizes": []}}])
def test_a_law_without_its_setting_is_refused(laws, tmp_path, facts):
    source = dataclasses.replace(laws[0].source, facts=facts)
    records.write(path := tmp_path / "records.jsonl", [laws[0]._replace(source=source)])
    with pytest.raises(UserError, match="does not say in which setting the law of gru|is damaged"):
        read_frontiers(path)
