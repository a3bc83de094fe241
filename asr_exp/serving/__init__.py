"""A trained recogniser over HTTP: what may come in, batches of what waits, the answers, and the web page."""
