"""ImageNet: an index of its files, images decoded while a net is trained, caches of smaller ones.

No torch here, but in `views` and what imports it: `loader`, `statistics`, `prepare`.
"""

from resexp.data.imagenet.dataset import ImageNet, open_imagenet

__all__ = ["ImageNet", "open_imagenet"]
