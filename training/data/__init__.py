"""From a name or a path to arrays of images."""

from training.data.dataset import Dataset, Images, load

__all__ = ["Dataset", "Images", "load"]
