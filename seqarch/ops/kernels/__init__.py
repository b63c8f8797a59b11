"""Kernels in Pallas: forms of ops that are written for one platform.

Each op's module imports its kernel when it is asked for, since Pallas takes a while to import.
"""
