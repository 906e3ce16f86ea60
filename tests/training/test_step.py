import pytest
import torch
from torch import nn

from igb import experiment
from igb.losses import CrossEntropy, TrueClassLoss
from igb.training.checkpoints import read_checkpoint
from igb.training.step import Step
from tests.conftest import tiny_config, tiny_run


def test_a_step_is_that_of_gradient_descent():
    """W - lr dL/dW with dL/dW = mean_n (p_n - e_y) x_n^T, by hand in float64."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 3, bias=False).double()
    images, labels = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3
    before = layer.weight.detach().clone()
    residual = (images @ before.T).softmax(1) - nn.functional.one_hot(labels, 3)
    step = Step(layer, torch.optim.SGD(layer.parameters(), lr=0.5))
    for weight in (1.0, 0.25):  # the second: as a shard of a batch
        value = step(images, labels, CrossEntropy(), weight)
        expected = before - 0.5 * weight * residual.T @ images / 8
        torch.testing.assert_close(layer.weight.detach(), expected)
        loss = -(images @ before.T).log_softmax(1)[torch.arange(8), labels].mean()
        torch.testing.assert_close(value, weight * loss)
        assert not value.requires_grad
        layer.weight.data.copy_(before)


class Learned(TrueClassLoss):
    """Cross-entropy whose scale is a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def of_log_probability(self, log_p):
        return -self.scale * log_p + self.scale**2


def test_a_loss_with_parameters_is_trained_with_them(tmp_path):
    options = ["loss._target_=tests.training.test_step.Learned", "optimizer.lr=0.1", "trainer.max_steps=3", "probe=log"]
    folder = tiny_run(tmp_path / "run", *options)
    weights = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert weights["losses.loss.scale"] != 1


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_a_process_has_a_seed_that_no_run_has_with_its_first(rank):
    firsts = {experiment.process_seed(seed, 0) for seed in range(2000)}
    others = {experiment.process_seed(seed, rank) for seed in range(2000)}
    assert firsts == set(range(2000))
    assert len(others) == 2000
    assert not firsts & others
    assert max(others) < 2**32


def test_a_run_puts_back_what_it_sets_for_the_process(tmp_path):
    def settings():
        return (
            torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
            bool(torch.tensor([1e-30]) * 1e-10 > 0),
        )  # fmt: skip

    torch.backends.cudnn.benchmark = True
    try:
        before = settings()
        experiment.run(tiny_config("compute.threads=2", "trainer.max_steps=1", "probe.images=10"), tmp_path / "run")
        assert settings() == before
    finally:
        torch.backends.cudnn.benchmark = False


def test_a_run_on_the_cpu_makes_no_cuda_context(tmp_path, monkeypatch):
    """Where there is a GPU: what would make one fails."""

    def fail(*arguments, **options):
        pytest.fail("CUDA was asked for")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("get_rng_state", "set_rng_state", "get_device_name", "synchronize", "_lazy_init", "current_device"):
        monkeypatch.setattr(torch.cuda, name, fail)
    for steps in (1, 2):  # the second resumes
        tiny_run(tmp_path / "run", "probe.images=10", f"trainer.max_steps={steps}")
