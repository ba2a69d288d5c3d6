"""Data sets that torchvision downloads."""

from pathlib import Path

from training.errors import DataError


def download(name: str, kind: str, data_root: Path) -> None:
    """Download the data set `name` below `data_root`, by the class `kind` of torchvision.datasets.

    Raises:
        DataError: there is no network, no mirror has the data, or the folder cannot be written.
    """
    from torchvision import datasets

    try:
        getattr(datasets, kind)(root=str(data_root), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name}: not in {data_root} (VAEPORT_DATA_ROOT), and it could not be downloaded: {error}\n"
            "Offline, use the built-in data set: --data digits"
        ) from error
