"""The Open Inference Protocol v2, for tritonclient, KServe's client and whoever else speaks it."""
