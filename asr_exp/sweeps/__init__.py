"""Sweeps: ranges of overrides, the record of the cells, the search with Optuna; may import runs, data and
what they may.
"""
