"""The reproduction of arXiv 2511.20826: what docs/reproduction.md shows, from run folders to tables and figures."""
