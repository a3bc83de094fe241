"""Sweeps: ranges in Hydra's override syntax, the record of the cells, and the search through Optuna."""
