"""The metrics in rows of RUN/metrics.jsonl, in the order in which trackers show them."""

from collections.abc import Iterable

from seqarch.errors import unknown
from seqarch.runtime.trackers import Scalar

METRICS = {
    "loss": Scalar("train", "nats per token", "Mean cross-entropy of the step's batch"),
    "bits_per_byte": Scalar(
        "train", "bits per byte", "The loss per byte of text, which compares across tokenizers"
    ),
    "accuracy": Scalar("train", "", "Share of scored positions of a probe that were right"),
    "validation_bits_per_byte": Scalar(
        "validation", "bits per byte", "Over some windows of the validation split"
    ),
    "validation_loss": Scalar("validation", "nats per token", "Over scored positions"),
    "validation_accuracy": Scalar("validation", "", "Over held-out rows of a probe"),
    "learning_rate": Scalar("optimizer", "", "Learning rate of the step"),
    "grad_norm": Scalar("optimizer", "", "Global norm of the gradient before clipping"),
    "refused": Scalar(
        "optimizer", "steps", "Steps in a row that were not finite and were not applied"
    ),
    "tokens_per_s": Scalar("speed", "tokens/s", "Tokens of the global batch per second"),
    "step_seconds": Scalar("speed", "s", "Time of a step, averaged over log_every steps"),
    "model_flops_per_s": Scalar("speed", "FLOP/s", "FLOPs of the model's definition per second"),
    "mfu": Scalar("speed", "", "Model FLOP/s as a fraction of the devices' peak rate in bfloat16"),
    "device_peak_bytes": Scalar(
        "memory", "bytes", "The most that the first device has had in use so far"
    ),
    "process_peak_rss_bytes": Scalar(
        "memory", "bytes", "The most memory that was resident so far, on devices that do not tell"
    ),
}


def check_metrics(names: Iterable[str]) -> None:
    """Raises UserError for a name that has no entry in METRICS."""
    for name in names:
        if name not in METRICS and name != "step":
            raise unknown("training metric", name, METRICS)
