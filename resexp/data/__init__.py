"""Image sets: official CIFAR-10, image folders and archives, procedural shapes. No torch here: see `loader`."""

from resexp.data.dataset import Dataset, data_home, open_dataset

__all__ = ["Dataset", "data_home", "open_dataset"]
