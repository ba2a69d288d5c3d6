"""Runs of format 1, which the first version wrote: what is read of them is as if this one had written it.

They can be exported, evaluated and started from, but not resumed: their state is another.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

FORMAT_1 = "vaeport-run/1"


def description_from_1(description: dict[str, Any]) -> dict[str, Any]:
    """The run.json of format 1 with what came later: there was one network, and pixels were taken as they came.

    Raises:
        KeyError: a field of format 1 is missing.
    """
    config, data, model = dict(description["config"]), description["data"], description["model"]
    width = config.pop("hidden_dim")
    channels, *size = model["image_shape"]
    preprocessing = {
        "size": size,
        "channels": channels,
        "crop": "none",
        "scale": data["scale"],
        "binarization": "none",
    }
    return {
        **description,
        "config": {**config, "hidden_dims": [width, width]},
        "data": {**data, "preprocessing": preprocessing, "classes": None},
    }


def tensors_from_1(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by their names of today: the decoder was a module around its layers."""
    return {name.replace("decoder.body.", "decoder."): tensor for name, tensor in tensors.items()}
