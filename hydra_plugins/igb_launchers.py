"""igb's launchers under the names that Hydra asks for: it accepts none from outside this namespace.

Hydra imports this at every start, so nothing heavy may be imported here.
"""

from igb.sweeps import local, slurm


class LocalLauncher(local.LocalLauncher):
    """See `igb.sweeps.local`."""


class SlurmLauncher(slurm.SlurmLauncher):
    """See `igb.sweeps.slurm`."""
