"""`align`: where in time the words of a transcript are."""
