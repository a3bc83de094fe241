"""Processes, devices, precision, threads, signals, the Hugging Face hub; may import core and scoring."""
