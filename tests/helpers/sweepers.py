"""A sweeper of Hydra's that is not igb's."""

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Least(Sweeper):
    """Runs a job for each value of a key, one batch after the other, and keeps what each returned."""

    returned: list[list[float]]

    def __init__(self, key, batches):
        self.key, self.batches = key, batches

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments):
        Least.returned = []
        number = 0
        for batch in self.batches:
            jobs = [[*arguments, f"{self.key}={value}"] for value in batch]
            Least.returned.append([job.return_value for job in self.launcher.launch(jobs, initial_job_idx=number)])
            number += len(jobs)
