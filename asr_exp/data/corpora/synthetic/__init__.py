"""Corpora that are made on the machine: the demo and the synthetic voices."""
