"""Rehearsals: a whole run with tiny weights and synthetic corpora; may import builders and what they may."""
