"""What a worker and its supervisor say to each other, over a pipe."""

from enum import StrEnum


class Said(StrEnum):
    """A message of a worker. Each comes in a pair with what it is about, or None."""

    LOADED = "loaded"  # the models have passed their self-test and are warm; the worker waits for Order.SERVE
    SERVING = "serving"  # calls are answered
    BEAT = "beat"  # each second: a serving.heartbeat.Heartbeat
    FAILED = "failed"  # the worker ends, and why
    LOAD = "load"  # an authorised caller has asked for a reload with a model
    UNLOAD = "unload"  # likewise, for a reload without it


class Order(StrEnum):
    """An order of the supervisor."""

    SERVE = "serve"  # listen
    LEAVE = "leave"  # others have taken over: let the callers go to them, lose no call, and end
