"""Sweeps: ranges, cells, the search with Optuna; may import runs, data and what they may."""
