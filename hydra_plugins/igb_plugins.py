"""igb's sweeper and launchers under the names that Hydra asks for: it accepts none from outside this namespace.

Hydra imports this at every start, so nothing heavy may be imported here.
"""

from hydra.core.config_store import ConfigStore

from igb.sweeps import local, slurm, sweeper


class IgbSweeper(sweeper.IgbSweeper):
    """See `igb.sweeps.sweeper`."""


class LocalLauncher(local.LocalLauncher):
    """See `igb.sweeps.local`."""


class SlurmLauncher(slurm.SlurmLauncher):
    """See `igb.sweeps.slurm`."""


ConfigStore.instance().store(group="hydra/sweeper", name="igb", node=sweeper.IgbSweeperConf, provider="igb")
