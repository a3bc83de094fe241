"""`serve`: a recogniser over HTTP, and its web page."""
