"""`compare`: whether one run is better than another, by paired tests."""
