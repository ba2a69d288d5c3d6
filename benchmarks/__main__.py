"""`python -m benchmarks`: all of them, each as Markdown, ready for docs/results/."""

from benchmarks import batching, log_likelihood, training_epoch
from benchmarks.machine import describe_machine

if __name__ == "__main__":
    print(describe_machine())
    training_epoch.main()
    log_likelihood.main()
    batching.main()
