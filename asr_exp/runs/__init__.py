"""Run folders: signature, results, environment, runs to compare; may import config, runtime and what they
may.
"""
