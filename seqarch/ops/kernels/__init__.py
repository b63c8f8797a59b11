"""Kernels in Pallas: forms of ops that are written for one platform.

Each op's module imports its kernel when it is asked for, since Pallas takes a while to import.
"""

LANES = 128  # numbers in a row of a TPU's register, and of its matrix unit
