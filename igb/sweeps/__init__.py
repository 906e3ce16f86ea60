"""Sweeps: their jobs, the sweeper that checks and sums up, and the launchers that start the jobs."""
