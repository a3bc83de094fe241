"""From recordings to transcripts with times; may import model, decoding, sweeps and what they may."""
