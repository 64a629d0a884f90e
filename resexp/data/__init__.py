"""Image sets: CIFAR and SVHN as published, image folders and archives, ImageNet, procedural shapes. No torch: see
`loader`."""

from resexp.data.cache import data_home
from resexp.data.dataset import Dataset, open_dataset
from resexp.data.imagenet import ImageNet

__all__ = ["Dataset", "ImageNet", "data_home", "open_dataset"]
