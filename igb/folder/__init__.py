"""The run folder's contract: what is in it, what makes a run the same run, its lock and its state. Free of torch."""
