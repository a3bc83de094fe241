"""Is asr_exp faster than what one would run otherwise? `python -m benchmarks --help`."""
