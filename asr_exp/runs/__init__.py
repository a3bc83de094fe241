"""Run folders: signature, results, environment; may import config, runtime and what they may."""
