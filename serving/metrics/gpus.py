"""Memory of the GPUs, from NVIDIA's driver by NVML, which needs no CUDA in this process."""

import logging
from collections.abc import Mapping
from functools import cache

log = logging.getLogger(__name__)


def device_memory() -> Mapping[tuple[str, ...], float]:
    """Bytes by (number of the GPU, "used" or "total"); empty if there is no driver, or it does not say."""
    import pynvml

    found: dict[tuple[str, ...], float] = {}
    try:
        for number in range(_gpus()):
            memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(number))
            found[str(number), "used"], found[str(number), "total"] = float(memory.used), float(memory.total)
    except pynvml.NVMLError as error:
        log.debug("no memory of the GPUs: %s", error)
    return found


@cache
def _gpus() -> int:
    """The number of GPUs; the driver is asked once."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
