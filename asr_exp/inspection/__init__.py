"""What `check` looks at before a run: recordings, transcripts, and a step that is really run. Pure but for that step."""
