"""Images served as batches; the sources they come from are in `igb.data.sources`."""

from igb.data.images import Images, LazyImages, grayscale, pixels
from igb.data.module import ImageData
from igb.data.order import Batch, EpochSampler

__all__ = ["Batch", "EpochSampler", "ImageData", "Images", "LazyImages", "grayscale", "pixels"]
