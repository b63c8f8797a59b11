"""FLOPs per token of a sequence of the run's length, by definition and as the train step runs."""

from collections.abc import Iterator

from seqarch.costs.program import abstract
from seqarch.costs.programs import train_program
from seqarch.evals.evaluator import Evaluator, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.flops import count_flops
from seqarch.model_flops import forward_flops, train_flops
from seqarch.records import Record
from seqarch.training.sharded_step import batch_layout


def evaluate(run: LoadedRun) -> Iterator[Record]:
    """Yields FLOPs per token; a backward pass counts twice its forward pass."""
    config = run.config
    model, layout = abstract(run.model), batch_layout(config)
    source, time = layout.columns(config.length)
    forward = forward_flops(model, time, source=source)
    train = train_flops(model, time, layout.scored, source)
    program = train_program(config, run.mesh)
    hardware = count_flops(program.fn, *program.args)
    tokens = config.batch * config.length
    yield Record("flops", "forward_per_token", forward.total / config.length)
    yield Record("flops", "forward_matmul_per_token", forward.matmul / config.length)
    yield Record("flops", "train_per_token", train.total / config.length)
    yield Record("flops", "train_matmul_per_token", train.matmul / config.length)
    yield Record("flops", "train_hardware_per_token", hardware.total / tokens)
    yield Record("flops", "uncounted_loops", hardware.uncounted_loops)


EVALUATOR = Evaluator(
    evaluate,
    metrics=(
        Metric("forward_per_token", "forward", "flops", "Model FLOPs of a forward pass.", True),
        Metric(
            "forward_matmul_per_token",
            title="forward, products",
            unit="flops",
            help="FLOPs of the forward pass in matrix products alone.",
            lower=True,
        ),
        Metric(
            "train_per_token",
            title="training",
            unit="flops",
            help="Model FLOPs of training, three times those of its forward pass.",
            lower=True,
        ),
        Metric(
            "train_matmul_per_token",
            title="training, products",
            unit="flops",
            help="FLOPs of training in matrix products alone.",
            lower=True,
        ),
        Metric(
            "train_hardware_per_token",
            title="training, as run",
            unit="flops",
            help="FLOPs of the train step as it runs.",
            lower=True,
        ),
        Metric(
            "uncounted_loops",
            title="uncounted loops",
            unit="count",
            help="Loops whose number of trips is not known.",
            lower=True,
        ),
    ),
    tables=(
        TableSpec(
            "FLOPs per token",
            "FLOPs of the definition, whatever form computes it: each visible pair of tokens "
            "counts once, and a backward pass counts twice its forward pass. In training, logits "
            "count at scored positions alone. As run: with what the train step computes again and "
            "what its blocks mask.",
            ("forward_per_token", "train_per_token", "train_hardware_per_token"),
        ),
    ),
)
