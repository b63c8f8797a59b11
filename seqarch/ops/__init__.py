"""The mathematics of the mixers, as pure functions on arrays.

The module of an op with several forms has FORMS, a dict from a form's name to its callable.
"""

from seqarch.ops.attention import attention
from seqarch.ops.conv import causal_conv, causal_conv_step
from seqarch.ops.diagonal_ssm import diagonal_ssm
from seqarch.ops.gru import gru
from seqarch.ops.linear_attention import linear_attention, linear_attention_and_sums
from seqarch.ops.lstm import lstm
from seqarch.ops.rope import rope
from seqarch.ops.scan import linear_scan
from seqarch.ops.selective_scan import selective_scan
from seqarch.ops.slstm import slstm

__all__ = [
    "attention",
    "causal_conv",
    "causal_conv_step",
    "diagonal_ssm",
    "gru",
    "linear_attention",
    "linear_attention_and_sums",
    "linear_scan",
    "lstm",
    "rope",
    "selective_scan",
    "slstm",
]
