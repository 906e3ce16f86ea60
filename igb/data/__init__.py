"""Images held in memory and served as batches; the sources they come from are in `igb.data.sources`."""

from igb.data.images import Images, grayscale, pixels
from igb.data.module import ImageData
from igb.data.order import Batch, EpochSampler

__all__ = ["Batch", "EpochSampler", "ImageData", "Images", "grayscale", "pixels"]
