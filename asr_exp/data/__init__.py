"""The way of the data: corpora -> text -> tokenizer -> store -> batching. Imports run one way, in that order."""
