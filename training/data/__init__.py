"""From a name or a path to arrays of images."""

from training.data.binarization import binarize
from training.data.dataset import Dataset, Preprocessing, load
from training.data.images import Images

__all__ = ["Dataset", "Images", "Preprocessing", "binarize", "load"]
