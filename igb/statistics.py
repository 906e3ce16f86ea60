"""What a classifier predicts, class by class: the two C x C matrices and the means of every probe."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from igb import _batches, _checks
from igb._checks import InputError, one_line
from igb._settings import without_tf32
from igb.losses import CrossEntropy, ProbabilityLoss
from igb.losses.base import check, weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_NORM_MODES = ("running", "batch")


@dataclass(frozen=True)
class ClassStatistics:
    """Means over the samples of each class, float64 on the CPU; row k is the class the samples have (their label).

    An attribute has the name of its column in metrics.csv. Shapes: matrices [C, C], all else [C].

    Attributes:
        count: samples of class k.
        probability_matrix: the soft counterpart of `prediction_matrix`: mean softmax probability of class j over the
            samples of class k.
        prediction_matrix: the row-normalised confusion matrix: share of the samples of class k that are predicted as
            class j (largest logit, ties shared).
        loss: mean loss.
        gradient_norm: mean L2 norm of the gradient of a sample's loss with respect to its logits.
        active_fraction: share of samples whose gradient is not zero.
        tied_fraction: share of samples whose largest logit is that of several classes; each of m counts as predicted
            by 1/m.
        weight: mean of what the loss lets through, w = -(dloss / dz_y) / (1 - p_y); 1 for cross-entropy.
        drift_ratio: C / (C - 1) (mean z_k)^2 / V, with z_k the logit of class k less the mean of all logits of its
            sample, and V = 1 / (C - 1) sum_k Var z_k over all samples. Its mean over the classes is the drift ratio of
            the logits (arXiv 2505.12096), as this network has it; `igb.drift_ratio` averages over draws of its head.

    >>> class Logits(nn.Module):  # a network that gives what it gets
    ...     def forward(self, images):
    ...         return images.flatten(1)
    >>> logits = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.75, 0.25]]).log()[:, None]  # of three images
    >>> stats = measure(Logits(), logits, torch.tensor([0, 1, 1]))
    >>> [round(p, 4) for p in stats.probability.tolist()], stats.guess_fraction.tolist()  # [C]; the tie is shared
    ([0.5, 0.25], [0.8333333333333334, 0.16666666666666666])
    >>> stats.probability_matrix.shape  # [C, C]
    torch.Size([2, 2])
    """

    count: Tensor
    probability_matrix: Tensor
    prediction_matrix: Tensor
    loss: Tensor
    gradient_norm: Tensor
    active_fraction: Tensor
    tied_fraction: Tensor
    weight: Tensor
    drift_ratio: Tensor

    @property
    def probability(self) -> Tensor:
        """p̄_k, the mean probability of class k over the samples of class k (equation 4 of arXiv 2511.20826)."""
        return self.probability_matrix.diagonal()

    @property
    def accuracy(self) -> Tensor:
        """Acc_k, the share of the samples of class k that are predicted as k (equation 5 of arXiv 2511.20826)."""
        return self.prediction_matrix.diagonal()

    @functools.cached_property
    def mean_probability(self) -> Tensor:
        """Mean probability of class k over all samples."""
        return self._over_all(self.probability_matrix)

    @functools.cached_property
    def guess_fraction(self) -> Tensor:
        """G_k, the share of all samples that are predicted as class k."""
        return self._over_all(self.prediction_matrix)

    @property
    def dominance(self) -> float:
        """max_k G_k, the share of all samples that the most guessed class takes."""
        return float(self.guess_fraction.max())

    def plot(self, class_names: Sequence[str] | None = None) -> "Figure":
        """Figure 1 of arXiv 2511.20826: the mean predicted probability of each class, as a matplotlib figure.

        `class_names` are C names (default: the class numbers). InputError for another number of them.
        """
        from igb import _plots  # which takes a while to import

        names = [str(k) for k in range(len(self.count))] if class_names is None else list(class_names)
        if len(names) != len(self.count):
            raise InputError(f"expected {len(self.count)} class_names, got {len(names)}")
        return _plots.initial(names, self.probability.numpy(), self.mean_probability.numpy())

    def _over_all(self, matrix: Tensor) -> Tensor:
        present = self.count > 0  # the row of an absent class is NaN
        count, rows = (self.count, matrix) if present.all() else (self.count[present], matrix[present])
        return count @ rows / self.count.sum()


class ClassSums:
    """The float64 sums behind ClassStatistics; they add up over chunks and over processes.

    They are one tensor `total` [C, V + 2C + 2] on the device: the V vectors and the two matrices, by the class that
    samples have, and of each logit, less the mean of its sample's, the sum and the sum of squares.
    """

    VECTORS = ("count", "loss", "gradient_norm", "active_fraction", "tied_fraction", "weight")

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        columns = len(self.VECTORS) + 2 * num_classes + 2
        self.total = torch.zeros(num_classes, columns, dtype=torch.float64, device=device)
        self._memory = self.total.new_empty(2, 0, num_classes)

    def update(self, logits: Tensor, labels: Tensor, loss: nn.Module) -> None:
        """Add samples: logits [N, C] and labels [N]; `loss` is called with `reduction="none"`.

        Loss and gradient are taken in the precision of training (float32 or wider), so that a sample is active exactly
        if training sees a gradient of it; norms, probabilities and sums are float64.
        """
        logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        weight = None
        with torch.enable_grad():
            # A class with a `forward` of its own may do more than its `of_log_probabilities`.
            if isinstance(loss, ProbabilityLoss) and type(loss).forward is ProbabilityLoss.forward:
                losses, log_p = loss.with_log_probabilities(logits.requires_grad_(), labels)
                gradient, by_log_p = torch.autograd.grad(losses.sum(), (logits, log_p))
                weight = weights(loss, log_p.detach(), by_log_p, labels)
            else:
                losses = loss(logits.requires_grad_(), labels, reduction="none")
                (gradient,) = torch.autograd.grad(losses.sum(), logits)
        logits, losses = logits.detach(), losses.detach()
        wide, probability = self._buffers(len(labels))
        torch.softmax(wide.copy_(logits), dim=1, out=probability)
        *parts, of_logits = self._parts()
        wide.sub_(wide.mean(dim=1, keepdim=True))
        of_logits.add_(torch.stack((wide.sum(dim=0), wide.square_().sum(dim=0)), dim=1))
        if weight is None:
            of_true = labels[:, None]
            rest = probability.scatter(1, of_true, 0.0).sum(dim=1)
            weight = torch.where(rest > 0, -gradient.gather(1, of_true)[:, 0].double() / rest, 0.0)
        prediction = torch.eq(logits, logits.amax(dim=1, keepdim=True), out=wide)
        ties = prediction.sum(dim=1, keepdim=True)
        # Adding 0 * x, which is NaN where x is not finite, keeps broken outputs from counting as a guess of class 0.
        broken = 0 * probability.sum(dim=1)
        prediction.div_(ties).add_(broken[:, None])
        norm = torch.linalg.vector_norm(gradient, dim=1, dtype=torch.float64)
        active = ((gradient.amax(dim=1) > 0) | (gradient.amin(dim=1) < 0)) + 0 * norm
        tied = (ties[:, 0] > 1) + broken
        vectors = (torch.ones_like(norm), losses.double(), norm, active, tied, weight + broken)
        for total, samples in zip(parts, (torch.stack(vectors, dim=1), probability, prediction), strict=True):
            total.index_add_(0, labels, samples)

    def _parts(self) -> tuple[Tensor, ...]:
        """The vectors, the two matrices, and the sums of logits, as views."""
        return self.total.split((len(self.VECTORS), len(self.total), len(self.total), 2), dim=1)

    def _buffers(self, count: int) -> Iterable[Tensor]:
        """Two tensors [count, C] that are used again: memory fresh from the system takes longer than the arithmetic."""
        if self._memory.shape[1] < count:
            self._memory = self.total.new_empty(2, count, len(self.total))
        return self._memory[:, :count]

    def compute(self) -> ClassStatistics:
        """The means over everything added so far."""
        return self.means(self.total)

    @staticmethod
    def means(total: Tensor) -> ClassStatistics:
        """The means of sums that are laid out as `total`, which come from their device once."""
        total, names, classes = total.cpu(), ClassSums.VECTORS, len(total)
        of_samples, of_logits = total.split((len(names) + 2 * classes, 2), dim=1)
        means = of_samples / of_samples[:, :1]
        vectors, probability, prediction = means.split((len(names), classes, classes), dim=1)
        named = dict(zip(names[1:], vectors.unbind(1)[1:], strict=True))
        logit, square = (of_logits / total[:, 0].sum()).unbind(1)
        drift_ratio = classes * logit.square() / (square - logit.square()).sum()
        return ClassStatistics(total[:, 0].clone(), probability, prediction, **named, drift_ratio=drift_ratio)


def measure(
    network: Callable[[Any], Any],
    images: Any,
    labels: Any = None,
    *,
    loss: nn.Module | None = None,
    batch_norm: str = "running",
    chunk: int = 500,
    transform: Callable[[Tensor], Tensor] | None = None,
    distributed: bool = False,
) -> ClassStatistics:
    """Measure what a classifier predicts for labelled images, leaving the classifier exactly as it was.

    Args:
        network: any module that maps a batch of images to logits [N, C], to an object with such `logits`, or to a tuple
            with them first; it is measured on the device it is on. A plain function is called as it is.
        images: [N, ...], as the network takes them, or as `transform` does: a tensor, an array or a list; or a
            DataLoader, or anything else that yields batches of images and labels, of which each is then a chunk.
            Floating-point numbers and bytes are passed to the network in its own precision.
        labels: class of each image, whole numbers [N] from 0 to C-1; None with a DataLoader, which supplies them.
        loss: what loss, gradient norm and active fraction are computed from (default: cross-entropy).
        batch_norm: `running` normalises by the running statistics, as in `eval()`; `batch` by the statistics of each
            chunk, leaving the running ones untouched. All other layers are in evaluation mode.
        chunk: images per forward pass, where they are not in batches already; a last chunk of one image is merged into
            the one before it.
        transform: applied to each chunk on the network's device, such as `ImageData.scale`.
        distributed: shard the chunks over the processes of `torch.distributed`, all of which call this with the same
            images, and add up what they saw: the result is the same in each, however many there are.

    TensorFloat-32 is off meanwhile. Raises InputError for images and labels that do not fit each other or the network.
    """
    check_chunk(chunk, _checks.choice("batch_norm", batch_norm, BATCH_NORM_MODES))
    chunks: Iterable[tuple[Tensor, Tensor, bool]]
    if labels is not None:
        if not isinstance(images, Tensor | np.ndarray | list | tuple):
            raise InputError("pass labels only with a tensor, array or list of images; a DataLoader supplies its own")
        images, labels = tensor_of("images", images), tensor_of("labels", labels)
        _check_labels(images, labels, batch_norm)
        elsewhere = images.device
        chunks = _shards(_batches.split(images, chunk), _batches.split(labels, chunk), distributed)
    elif isinstance(images, Tensor | np.ndarray):
        raise InputError("labels must be given with images that are a tensor or an array")
    elif distributed:
        raise InputError("distributed=True requires a tensor, array or list of images, with labels")
    else:
        elsewhere = torch.device("cpu")
        chunks = _checked(images, batch_norm)
    loss = loss if loss is not None else CrossEntropy()
    check("loss", loss)
    module = getattr(network, "__self__", network)  # of a bound method such as `network.forward`
    if not isinstance(module, nn.Module):
        if batch_norm == "batch":
            raise InputError("batch_norm=batch needs a network that is a torch.nn.Module; it is a plain function")
        module = nn.Module()
    device, dtype = place_of(module, elsewhere)
    sums: ClassSums | None = None
    with undisturbed(module, device, batch_norm):
        for batch, batch_labels, counted in chunks:
            batch = _outside_inference_mode(batch.to(device))
            given, own = (transform(batch), None) if transform else (batch, dtype)
            logits = _logits(called(network, given, own), len(batch))
            if device.type == "mps":  # which has no float64
                logits = logits.cpu()
            if sums is None:
                sums = ClassSums(logits.shape[1], logits.device)
                if labels is not None:
                    _check_range(labels, logits.shape[1])
            if labels is None:
                _check_range(batch_labels, logits.shape[1])
            if counted:
                sums.update(
                    _outside_inference_mode(logits),
                    _outside_inference_mode(batch_labels).to(logits.device).long(),
                    loss,
                )
    if sums is None:
        raise InputError("the DataLoader yielded no batches")
    if distributed:
        dist.all_reduce(sums.total)
    return sums.compute()


def _logits(output: Any, count: int) -> Tensor:
    """The logits [N, C] in what a network returned for `count` images; InputError if there are none."""
    first: Any = output[0] if isinstance(output, tuple) and output else output
    given: Any = getattr(output, "logits", first)
    is_tensor = isinstance(given, Tensor)
    if not is_tensor or given.ndim != 2 or len(given) != count or given.shape[1] < 2:
        what = f"shape {tuple(given.shape)}" if is_tensor else f"a {type(output).__name__}"
        raise InputError(f"the network must return logits [N, C] of two or more classes; it returned {what}")
    logits: Tensor = given
    return logits


def place_of(module: nn.Module, elsewhere: torch.device) -> tuple[torch.device, torch.dtype | None]:
    """The device of a network, or `elsewhere` if it has none, and its floating-point precision, if it has one."""
    tensors = [*module.parameters(), *module.buffers()]
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
    return next((tensor.device for tensor in tensors), elsewhere), dtype


def called(network: Callable[[Any], Any], batch: Tensor, dtype: torch.dtype | None) -> Any:
    """What the network returns for a copy of the images in its own precision; InputError if it fails on them."""
    own = dtype if dtype and (batch.is_floating_point() or batch.dtype == torch.uint8) else batch.dtype
    try:
        return network(batch.to(own, copy=True))  # a network may work in place
    except (torch.OutOfMemoryError, InputError):
        raise
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        what = f"images of shape {list(batch.shape)} and dtype {own}"
        raise InputError(f"the network failed on {what}: {one_line(error)}") from error


def tensor_of(name: str, values: Any) -> Tensor:
    """A tensor, an array or a list as a tensor; InputError if it is none of them."""
    if isinstance(values, Tensor):
        return values
    try:
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
            return torch.stack(list(values))
        array = np.ascontiguousarray(values)
        return torch.as_tensor(array if array.flags.writeable else array.copy())  # torch warns of read-only memory
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be a tensor, or an array of numbers; {one_line(error)}") from error


def _outside_inference_mode(tensor: Tensor) -> Tensor:
    """The tensor as one that can be part of a gradient, also if inference mode made it."""
    return tensor.clone() if tensor.is_inference() else tensor


def check_chunk(chunk: int, batch_norm: str) -> None:
    """Raise InputError for a number of images in a forward pass that batch norm cannot normalise by themselves."""
    _checks.integer("chunk", chunk, at_least=2 if batch_norm == "batch" else 1)


def _shards(
    images: Sequence[Tensor], labels: Sequence[Tensor], distributed: bool
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """The chunks that this process takes, and whether they count.

    Where the last round has none left, one is computed and not counted, so that all processes take as many steps.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    rounds = -(-len(images) // world_size)
    for number in range(rank, rounds * world_size, world_size):
        yield images[number % len(images)], labels[number % len(images)], number < len(images)


def _checked(batches: Iterable[Sequence[Tensor]], batch_norm: str) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """The batches of a DataLoader; InputError for one that is not images and labels."""
    for batch in batches:
        if not isinstance(batch, Sequence) or len(batch) != 2:
            raise InputError("a batch must be images and labels, two tensors")
        images, labels = tensor_of("images", batch[0]), tensor_of("labels", batch[1])
        _check_labels(images, labels, batch_norm)
        yield images, labels, True


def _check_labels(images: Tensor, labels: Tensor, batch_norm: str) -> None:
    if (
        labels.ndim != 1
        or labels.is_floating_point()
        or labels.is_complex()
        or len(labels) != len(images)
        or len(labels) == 0
    ):
        raise InputError(
            f"labels must be whole numbers, one for each of {len(images)} images; "
            f"they have shape {tuple(labels.shape)} and type {labels.dtype}"
        )
    if batch_norm == "batch" and len(labels) == 1:
        raise InputError("batch_norm=batch needs two or more images; there is one")


def _check_range(labels: Tensor, classes: int) -> None:
    labels = labels.long()  # some types of whole numbers have no minimum
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"labels must be between 0 and {classes - 1}, as the network has {classes} classes; "
            f"they are between {int(labels.min())} and {int(labels.max())}"
        )


@contextlib.contextmanager
def undisturbed(network: nn.Module, device: torch.device, batch_norm: str) -> Iterator[None]:
    """Evaluation mode with the batch norm chosen, without gradients and TF32; all comes back as it was.

    That is modes, running statistics and random state, also that of `device`.
    """
    training = {module: module.training for module in network.modules()}
    running: dict[Any, tuple[Tensor | None, Tensor | None]] = {}
    # What inference mode makes could not be part of the gradient of a loss.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        without_tf32(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        try:
            network.eval()
            if batch_norm == "batch":  # by which it normalises, also in evaluation mode, where it has no others
                for module in network.modules():
                    if isinstance(module, _BatchNorm):
                        running[module] = module.running_mean, module.running_var
                        module.running_mean = module.running_var = None
            yield
        finally:
            for module, statistics in running.items():
                module.running_mean, module.running_var = statistics
            for module, mode in training.items():
                module.training = mode
