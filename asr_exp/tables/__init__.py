"""Tables of results: cells found among the run folders, arranged in rows that may be compared, written for people and programs."""
