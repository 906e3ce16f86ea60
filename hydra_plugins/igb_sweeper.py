"""igb's sweeper under the name that Hydra asks for; see hydra_plugins/igb_launchers.py."""

from hydra.core.config_store import ConfigStore

from igb.sweeps import sweeper


class IgbSweeper(sweeper.IgbSweeper):
    """See `igb.sweeps.sweeper`."""


ConfigStore.instance().store(group="hydra/sweeper", name="igb", node=sweeper.IgbSweeperConf, provider="igb")
