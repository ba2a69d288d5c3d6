"""`python -m serving doctor`: checks everything that a set-up needs, before it is started."""

from serving.doctor.command import doctor, examine

__all__ = ["doctor", "examine"]
