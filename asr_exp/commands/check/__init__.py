"""`check`: recordings, transcripts, and one training step, before a run."""
