"""What a release is made of, and what it must not break: `python -m release`, run by `make dist`."""
