"""For the CPU: convolutions as matrix products, and batch norm of full accuracy on channels-last maps."""
