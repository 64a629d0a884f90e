"""Image sets: official CIFAR-10, image folders and archives, procedural shapes. No torch here: see `loader`."""

from resexp.data.dataset import Dataset, open_dataset, source
from resexp.data.home import data_home
from resexp.data.imagenet import ImageNet

__all__ = ["Dataset", "ImageNet", "data_home", "open_dataset", "source"]
