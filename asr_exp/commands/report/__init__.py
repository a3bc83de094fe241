"""`report`: a run as a page or as figures."""
