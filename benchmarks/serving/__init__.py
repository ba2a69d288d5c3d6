"""The server under load, beside what it should be measured against. docs/results/serving.md has what came out."""
