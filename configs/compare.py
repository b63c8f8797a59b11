"""Compares the quality and memory of members with equal parameters at one budget.

    bash scripts/compare.sh
    bash scripts/compare.sh --config=configs/compare.py:long
    bash scripts/compare.sh --config=configs/compare.py:full --config.data.path=DIR --workdir=RUNS

The default is a tour that takes minutes on two CPU cores. `long` is evidence and takes hours there:
each member's learning rate is chosen on validation works from the same grid; then each member is
trained from three other seeds and scored on the test works. With --minutes=150 it ends in good
order after that time, and the same command goes on. `full` is for an accelerator: 125M parameters,
context 4096, bfloat16, on a directory that scripts/prepare_data.py wrote.

`abilities` trains no text: it gives the probes alone, the five members all and other mixers the two
that are quick, each with ten fresh seeds. It takes hours, too, and `long` has the same probes.

`seq2seq` trains no text either: language models and encoder-decoders reverse strings.

`ladder` compares the members at three sizes, each at its own learning rate, and fits how bits per
byte fall with parameters and training FLOPs: does the order hold as models grow? `ladder_full` does
so from 10M to 300M parameters, on an accelerator.

Members are layer patterns as in configs/lm.py; "name = pattern" gives one a name, "; field=value"
sets fields of `model`. `match` says what they have in common with `reference`. "params": each gets
the MLP width with which it has as many parameters or, if it sets `mlp` itself, the depth. "state":
the option that sizes its mixer's state, such as attention's window, or else its width. "flops": the
width at which a token trains at as many FLOPs; all members read the same number of tokens. A member
of a task with a source may be an encoder-decoder: "gru; kind=encdec; encoder=gru".

Probes are tasks with the budget that configs/probes.py gives: "title = task; field=value". Fields
are those of a run, and lrs, search_seeds, seeds, lengths and members (seqarch.compare.probe_spec).
A model on a probe has the layer pattern of the member and the size of the probe.
"""

import ml_collections

from configs import lm
from configs.probes import find_probe
from seqarch.errors import unknown
from seqarch.mixers import MIXERS

# The five members that every comparison has; "hybrid" differs between them.
CORE = ("gru", "attention", "linear_attention = linear_attention(decay=data)", "mamba")
HYBRID = "hybrid = mamba,attention"
CORE_NAMES = ("gru", "attention", "linear_attention", "mamba", "hybrid")
RECALL = "recall = mqar(pairs=4,length=32,queries=12,vocab=32)"


def get_config(budget: str = "tour") -> ml_collections.ConfigDict:
    """Returns the config of a comparison at a budget of BUDGETS.

    What its runs share are fields of configs/lm.py.
    """
    if budget not in BUDGETS:
        raise unknown("budget of configs/compare.py", budget, BUDGETS)
    config = lm.get_config("attention")
    del config.seed  # `seeds` has those of the runs
    config.name = budget
    config.notice = "tour: one learning rate, one seed, undertrained; not evidence"
    config.reference = "attention"
    config.match = "params"
    config.members = (*CORE, "hybrid = mamba,mamba,attention")
    config.probes = (f"{RECALL}; steps=250", "state tracking = parity; steps=100")
    config.probe_members = ()
    config.sizes = ()
    config.lrs = ()
    config.seeds = (0,)
    config.split = "validation"

    config.steps, config.batch = 200, 8
    config.model.layers, config.model.dim = 3, 96
    config.optim.warmup = 20
    config.checkpoint.every, config.checkpoint.keep = 100, 1
    config.eval.every, config.eval.limit = 0, 8192
    config.evals.context.targets = 0
    return BUDGETS[budget](config)


def _long(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.notice = (
        "130 thousand parameters, 0.65 million tokens of Shakespeare: evidence for this budget, "
        "not for others"
    )
    config.members = (
        "gru",
        "gru-conv = gru; conv=4",
        "gru-bare = gru; mlp=0",
        "attention",
        "attention-conv = attention; conv=4",
        "attention-nope = attention(rope=None)",
        "attention-mqa = attention(kv_heads=1)",
        "attention-window = attention(window=64)",
        "linear_attention = linear_attention(decay=data)",
        "linear_attention-conv = linear_attention(decay=data); conv=4",
        "mamba",
        "mamba-conv = mamba; conv=4",
        "mamba-bare = mamba; mlp=0",
        HYBRID,
    )
    config.probes, config.probe_members = _long_probes(), (*CORE, HYBRID, *_others())
    config.lrs = (1e-3, 3e-3, 9e-3, 27e-3)
    config.seeds = (1, 2, 3)
    config.split = "test"
    config.steps = 320
    config.model.layers = 2
    config.model.dim = 64
    config.model.mlp = 168
    config.optim.warmup = 40
    config.checkpoint.every = 0
    config.eval.limit = 16384
    config.evals.context.targets = 16
    return config


def _long_probes() -> tuple[str, ...]:
    """Returns the probes of the long comparison, each with ten fresh seeds.

    The members of CORE_NAMES get all, other mixers the two that are quick.
    """
    seeds = "search_seeds=(0, 1); seeds=(10, 11, 12, 13, 14, 15, 16, 17, 18, 19)"
    how = f"lrs=(1e-3, 3e-3, 9e-3); {seeds}"
    core, lengths = f"{how}; members={CORE_NAMES}", "lengths=(128, 256, 1024)"
    return (
        f"{RECALL}; {how}",
        f"copying = copy(length=32); {core}",
        f"induction beyond training = induction(length=64); {lengths}; {core}",
        f"state tracking = parity; {how}",
    )


def _others() -> tuple[str, ...]:
    """Returns the mixers of MIXERS that are no member of CORE."""
    return tuple(name for name in MIXERS if name not in CORE_NAMES)


def _abilities(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config = _long(config)
    config.notice = "small models, hundreds of steps: evidence for this budget, not for others"
    config.members = ()
    return config


def _with_heads(heads: int) -> tuple[str, tuple[str, ...]]:
    """Returns the reference and the members of large models, with so many attention heads."""
    attention = f"attention(heads={heads})"
    return attention, (
        "gru",
        f"attention = {attention}",
        f"linear_attention = linear_attention(heads={heads},decay=data)",
        "mamba",
        f"hybrid = mamba,mamba,{attention}",
    )


def _full(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.notice = "one learning rate, one seed; not evidence"
    config.reference, config.members = _with_heads(12)
    config.probes = ()
    config.steps = 20000
    config.batch = 64
    config.length = 4096
    config.log_every = 20
    config.model.layers = 18
    config.model.dim = 768
    config.model.mlp = 1984
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.optim.lr = 6e-4
    config.optim.warmup = 1000
    config.optim.accumulate = 8
    config.data.path = "data/prepared"
    config.checkpoint.every = 1000
    config.eval.every = 1000
    config.eval.limit = 0
    config.evals.context.targets = 8
    config.evals.memory.compiled = (1024, 4096, 16384, 65536)
    config.evals.speed.contexts = (1024, 4096, 16384, 65536)
    return config


def _seq2seq(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.notice = (
        "330 thousand parameters, 800 steps on strings of up to 15 letters: evidence for this "
        "budget, not for others"
    )
    config.members = (
        "gru",
        "attention",
        "gru to gru = gru; kind=encdec; encoder=gru",
        "gru by summary = gru; kind=encdec; encoder=gru; source=summary",
        "attention to attention = attention; kind=encdec; encoder=attention(causal=False)",
    )
    config.probes = ()
    config.lrs = (1e-3, 3e-3, 9e-3)
    config.seeds = tuple(range(10, 20))
    config.split = "test"
    config.task = "reverse(length=32)"
    probe = find_probe(config.task)
    config.steps, config.batch, config.length = 800, 64, probe.length
    config.model.layers, config.model.dim, config.model.mlp = 2, 64, 768
    config.model.vocab = probe.vocab
    config.optim.final_lr = 1.0
    config.checkpoint.every = 0
    contexts = (64, 1024, 16384)
    config.evals = _evals(contexts, contexts, accuracy=dict(rows=512, lengths=(64,)))
    return config


def _ladder(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config = _long(config)
    config.notice = (
        "42 to 660 thousand parameters, 0.65 million tokens of Shakespeare: evidence for this "
        "budget, not for others"
    )
    config.members = (*CORE, HYBRID)
    config.probes = config.probe_members = ()
    config.sizes = (
        "small; model.dim=32; model.mlp=88",
        "medium; model.dim=64; model.mlp=168",
        "large; model.layers=4; model.dim=112; model.mlp=296",
    )
    config.evals = _evals((1024,), (), quality={})
    return config


def _evals(
    contexts: tuple[int, ...], compiled: tuple[int, ...], **others: dict
) -> ml_collections.ConfigDict:
    """Returns evaluators with their options: FLOPs, memory at contexts, and others."""
    memory = dict(contexts=contexts, compiled=compiled)
    return ml_collections.ConfigDict(dict(**others, flops={}, memory=memory))


def _ladder_full(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config = _full(config)
    config.notice = "20 tokens a parameter: evidence for this budget, not for others"
    config.reference, config.members = _with_heads(8)
    config.lrs = (3e-4, 1e-3, 3e-3)
    config.seeds = (1, 2, 3)
    config.split = "test"
    config.batch, config.length = 256, 1024
    config.sizes = (
        "10M; steps=800; model.layers=12; model.dim=256; model.mlp=688; optim.warmup=80",
        "30M; steps=2300; model.layers=12; model.dim=448; model.mlp=1192; optim.warmup=230",
        "100M; steps=7600; model.layers=20; model.dim=640; model.mlp=1704; optim.warmup=760",
        "300M; steps=23000; model.layers=24; model.dim=1024; model.mlp=2728",
    )
    config.evals = _evals((1024, 65536), (1024,), quality={})
    return config


BUDGETS = {
    "tour": lambda config: config,
    "long": _long,
    "abilities": _abilities,
    "seq2seq": _seq2seq,
    "full": _full,
    "ladder": _ladder,
    "ladder_full": _ladder_full,
}
