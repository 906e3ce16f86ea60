"""What decides whether a network leaves its guess: from run folders to the tables in docs/study."""
