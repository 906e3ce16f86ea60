"""What decides whether a network leaves its guess: what docs/study.md shows, from run folders to tables."""
