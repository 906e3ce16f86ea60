"""For the CPU: convolutions as matrix products, and numerically more accurate batch norm on channels-last maps."""
