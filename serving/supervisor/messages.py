"""What a worker and its supervisor say to each other, over a pipe."""

from enum import StrEnum


class Said(StrEnum):
    """By a worker. Each comes in a pair with what it is about, or None."""

    LOADED = "loaded"  # the models have passed their self-test and are warm; it waits to be told to serve
    SERVING = "serving"  # calls are answered
    BEAT = "beat"  # each second: a serving.heartbeat.Heartbeat
    FAILED = "failed"  # it ends, and why
    LOAD = "load"  # a caller who may has asked for a model: a reload, with it
    UNLOAD = "unload"  # likewise, for a reload without it


class Order(StrEnum):
    """By the supervisor."""

    SERVE = "serve"  # listen
    LEAVE = "leave"  # others have taken over: let the callers go to them, lose nobody, and end
