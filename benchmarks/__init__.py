"""What `make bench` runs. Each benchmark prints ratios that are measured within one run, and never asserts a time."""
