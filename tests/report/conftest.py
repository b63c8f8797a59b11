"""Members that are made up, for tests of what reports show of them."""

import pytest

from seqarch.records import Record, Results, Source
from seqarch.report.members import Comparison, Member

NOTICE = "tour: one learning rate, one seed, undertrained; not evidence"
LENGTHS = (64, 256, 1024)
DOCUMENTS = ["king_lear", "sonnets & more"]
PHASES = ("train", "prefill", "decode")
MADE = dict(revision="0123abcdef0123", dirty=False, versions={"jax": "0.10"})
MADE |= dict(devices=dict(platform="cpu", kind="cpu", count=1), command=["python", "eval.py"])


def results_of(name, mixer="gru", *, mlp=256, state=2048, growth=0, seed=0, bits=2 + 1 / 3):
    """A run's results: its state is `state` + `growth` bytes a token."""
    found = [
        Record("quality", "bits_per_byte", bits, n=2),
        Record("quality", "bits_per_byte_carried", 2.125),
        Record("quality", "bytes", 123456),
        Record("quality", "context", 256),
        Record(
            "quality",
            "position_bits_per_byte",
            [3 + 2 / (1 + t) for t in range(256)],
            {"position": list(range(1, 257))},
        ),
        Record("quality", "document_bits_per_byte", [bits, bits + 0.25], {"document": DOCUMENTS}),
        Record("quality", "document_bytes", [1000, 3000], {"document": DOCUMENTS}),
        Record("memory", "params", 654321),
        Record("speed", "train_tokens_per_s", 7654.25),
    ]
    for length in LENGTHS:
        at = {"context": length}
        found.append(Record("memory", "state_bytes", state + growth * length, at))
        found += [Record("memory", f"{each}_bytes", 2**20 + 500 * length, at) for each in PHASES]
        found.append(Record("speed", "decode_tokens_per_s", 1e6 / (100 + growth * length), at))
    model = dict(mixer=mixer, dim=128, mlp=mlp)
    config = dict(steps=300, model=model, seed=dict(model=seed, data=seed))
    definition = "arguments + outputs + temporaries"
    facts = {"memory": {"definition": definition, "state_dtype": "float32+int32"}}
    seeds = dict(model=seed, data=seed)
    return Results(Source(name, "run", config, 300, "test", seeds, MADE, facts), tuple(found))


def member_of(name, *args, **options):
    return Member(name, "run", (results_of(name, *args, **options),))


def baseline_of(name, bits):
    source = Source(name, "baseline", split="test", provenance=MADE)
    found = Results(source, (Record("quality", "bits_per_byte", bits),))
    return Member(name, "baseline", (found,))


def comparison_of(*members, title="Mixers", command="python scripts/compare.py"):
    return Comparison(title, NOTICE, command, members)


@pytest.fixture(scope="session")
def comparison():
    return comparison_of(
        member_of("gru"),
        member_of("attention", "attention", mlp=320, state=0, growth=1024),
        baseline_of("n-gram", 4.5),
    )
