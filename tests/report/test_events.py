"""What of the records TensorBoard shows."""

from seqarch.records import Record, Results, Source
from seqarch.report.events import curves, scalars


def test_numbers_follow_those_of_training_and_arrays_are_left_out():
    found = (
        Record("memory", "state_bytes", 512, {"context": 4096}),
        Record("quality", "position_bits_per_byte", [3.0, 2.0], {"position": [1, 2]}),
    )
    assert scalars(Results(Source("gru"), found)) == {"6_eval/memory/state_bytes@4096": 512}


def test_an_evaluator_that_found_nothing_to_measure_is_left_out():
    found = (Record("context", "targets", 0), Record("flops", "train_per_token", 7.0))
    assert scalars(Results(Source("gru"), found)) == {"6_eval/flops/train_per_token": 7.0}


def test_a_sweep_is_a_curve_over_the_context():
    found = []
    for context in (1024, 4096):
        at = dict(target="local", phase="train", context=context, batch=1)
        found.append(Record("costs", "total_bytes", 10 * context, at))
        found.append(Record("costs", "device_bytes", 2**20, at))
    found.append(Record("costs", "total_bytes", at=at | dict(context=2**20), status="failed"))
    results = Results(Source("gru", "program"), tuple(found))
    points = {context: {"train/total_bytes": 10 * context} for context in (1024, 4096)}
    assert curves(results, "local") == points
    assert curves(results, "gpu-h100") == {}
