"""Errors, registries, exit status, whole files, the log and the terminal; imports nothing else of asr_exp."""
