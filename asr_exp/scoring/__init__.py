"""Error rates, their intervals and the tests of a difference; imports nothing else of asr_exp."""
