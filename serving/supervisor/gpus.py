"""The GPUs of this machine, found without a GPU library: the supervisor loads none."""

import re
from pathlib import Path


def visible_gpus(visible: str | None, devices: Path = Path("/dev")) -> list[str]:
    """The values of CUDA_VISIBLE_DEVICES to give to workers, one for each GPU.

    CUDA numbers the GPUs that it finds from 0, whatever the numbers of their nodes: a container that is given the sixth
    GPU of a machine has only nvidia5, and that is number 0 (NVIDIA/nvidia-docker#907). Under WSL all are behind one
    node, dxg, and count as one.

    Args:
        visible: CUDA_VISIBLE_DEVICES as it is now; None if it is not set.
        devices: where the driver has a node for each GPU.
    """
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    nodes = [path for path in devices.iterdir() if re.fullmatch(r"nvidia[0-9]+|dxg", path.name)]
    return [str(number) for number in range(len(nodes))]
