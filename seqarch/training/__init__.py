"""Training: state and step (state.py, optim.py), devices (sharding.py), what is kept
(checkpoint.py, logging.py), the loop.
"""
