"""`table`: the results of many runs, side by side with the published ones."""
