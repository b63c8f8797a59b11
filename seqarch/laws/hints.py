"""HINTS: what to look at in a mixer that breaks a clause, by the clause's name."""

HINTS = {
    "carry": (
        "return from both a state like init_state's, cast back to its dtypes, and name its "
        "arrays' axes in state_axes"
    ),
    "causal": (
        "something reads ahead, such as a roll, a symmetric window or a missing mask, or mixes rows"
    ),
    "step": (
        "one of the two sees other tokens or another state: prefill must start from the given "
        "state and read no later token, and step must update before its output exactly where "
        "prefill does"
    ),
    "halves": (
        "prefill must start from the given state, count positions on from it, and return the "
        "state after the last of `lengths` tokens"
    ),
    "lengths": (
        "tokens beyond `lengths` must leave the state as it is, with a decay of 1 and an "
        "update of 0"
    ),
    "starts": (
        "where `starts` is True the past must be forgotten before the token: the state that "
        "came in, and every window, convolution or cache that reaches back; beyond `lengths` "
        "it must not: starts & valid_tokens(lengths, B, T)"
    ),
    "call": "leave __call__ to SequenceMixer, or let it do what prefill does",
    "splits": "look at sequences of one token, and at lengths that are no multiple of a chunk",
    "bfloat16": "keep decays, normalisers, softmax and the state in float32",
    "bfloat16_step": (
        "keep a recurrent state in float32, whatever `dtype` is: small updates are lost in bfloat16"
    ),
    "long": "look at what is handed from one chunk or block to the next",
    "axes": "give each nnx.Param axes=(...), a logical name or None for each dimension",
    "used": "remove the parameter, or look for a stop_gradient or a product with zero",
    "differences": (
        "look for stop_gradient, custom_vjp rules and rounding in the backward pass; a mixer that "
        "makes choices must say so by `piecewise = True`"
    ),
    "large": "subtract the maximum before exp, or bound what goes into it",
    "reuse": (
        "keep everything about the past in the state, with the batch as the first axis of "
        "every array"
    ),
}
