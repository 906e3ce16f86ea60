"""For CUDA cards: steps and probes that are recorded once and replayed."""
