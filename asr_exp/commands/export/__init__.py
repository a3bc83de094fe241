"""`export`: a trained model as a folder for others."""
