"""What programs need on a device, present or absent, and what fits it.

A *program* is a jitted function with the shapes of its arguments; a *spec* says which program of
which config, target and size is meant. The *plan* is what a compiler says of a program's memory. A
*measurement* holds the bytes of a program and its plan; an *outcome* is a measurement or a failure.
"""
