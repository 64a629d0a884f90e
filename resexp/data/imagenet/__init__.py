"""ImageNet: an index of its files, images decoded while a net is trained, caches of smaller ones.

No torch here, but in `loader` and what imports it: `statistics`, `prepare`, `streaming`.
"""

from resexp.data.imagenet.dataset import ImageNet, open_imagenet

__all__ = ["ImageNet", "open_imagenet"]
