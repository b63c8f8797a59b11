"""Translation of a source into a target, by an encoder-decoder.

    python train.py --config=configs/seq2seq.py:reverse,attention --workdir=runs/reverse
    python train.py --config=configs/seq2seq.py:sort,gru --config.model.source=summary ...

The argument is the task, one with a source (reverse, sort, postfix), then the layer pattern of the
decoder as in configs/lm.py. The encoder has the same layers: attention sees the whole source, other
mixers are run both ways. --config.model.encoder takes other ones. The decoder reads the source by
cross-attention, or, with --config.model.source=summary, by one vector, so that its state does not
grow with the source. A language model reads source and target as one row:
--config=configs/probes.py:reverse,attention.
"""

import ml_collections

from configs import probes
from seqarch.errors import UserError
from seqarch.patterns import Layer, read_pattern


def get_config(argument: str = "reverse,attention") -> ml_collections.ConfigDict:
    """Returns the config of an encoder-decoder; the argument is the task, then the decoder."""
    config = probes.get_config(argument)
    if not probes.find_probe(config.task).has_source:
        raise UserError(
            f"{config.task} has no source that an encoder could read; give a task such as reverse, "
            "or use configs/probes.py"
        )
    config.model.kind = "encdec"
    config.model.encoder = ",".join(map(_encoder_layer, read_pattern(config.model.mixer)))
    config.model.mlp = 128
    config.model.conv = 0
    return config


def _encoder_layer(layer: Layer) -> str:
    """Returns a layer with attention to the whole source in place of causal attention."""
    causal = {"window", "sink", "forget"} & dict(layer.options).keys()
    if layer.mixer != "attention" or causal:
        return str(layer)
    return str(Layer(layer.mixer, (*layer.options, ("causal", False))))
