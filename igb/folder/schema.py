"""The files of a run folder and of a sweep's, and their columns: each is defined here, once.

A column is found by its name. New ones are appended; one that an older file lacks has the value in `OLD_FILE_DEFAULTS`.
docs/extending.md lists what else a new column needs.
"""

import math
from pathlib import Path

# In run.json. Folders of schema 1 have no such entry, and lack the columns `split` and `tied_fraction`; those of
# schemas 1 and 2 have matrices.npz, until they are resumed.
SCHEMA = 3

RUN, PLAN = "run.json", "sweep.json"
STATUSES = ("running", "completed", "interrupted", "diverged", "failed")
FINAL = ("completed", "diverged")  # a completed run resumes if max_epochs or max_steps grew

# The columns of metrics.csv, which has a row for each probe, view (split and batch norm) and class k. Those of
# quantities are attributes of `igb.statistics.ClassStatistics`, which computes them.
METRICS = {
    "step": "optimizer steps done; 0 is initialisation",
    "epoch": "step / steps per epoch",
    "batch_norm": "normalised by `running` statistics (evaluation mode) or by those of each `batch`",
    "class": "k, from 0",
    "class_name": "its name",
    "count": "images of class k",
    "probability": "p̄_k, mean probability of class k over the images of class k",
    "accuracy": "share of the images of class k that are predicted as k",
    "mean_probability": "mean probability of class k over all images",
    "guess_fraction": "G_k, share of all images that are predicted as k",
    "loss": "mean loss over the images of class k",
    "gradient_norm": "mean L2 norm, over the images of class k, of the loss's gradient with respect to the logits",
    "active_fraction": "share of the images of class k whose gradient is not zero",
    "split": "the images that are measured: `test`",
    "tied_fraction": "share of the images of class k whose largest logit several classes have",
    "weight": "mean over the images of class k of what the loss lets through, -(dloss/dz_k) / (1 - p_k)",
    "drift_ratio": "how far the mean of logit k is from that of all, C / (C - 1) (mean z_k)^2 / V; the mean over the "
    "classes is the drift ratio of the logits",
}
FILES = {
    "metrics.csv": "a row for each probe, batch-norm mode and class",
    "matrices.zarr": "`probability[p, k, j]` and `prediction[p, k, j]` of the p-th probe in metrics.csv: mean "
    "probability of class j over the images of class k, and share of them assigned to it; float32, with 256 and more "
    "classes rounded to 15 significant bits; `probe.matrices=false` leaves them out",
    "matrices.tail": "the newest of these matrices, while the run writes them",
    "train.csv": "a row for each optimizer step",
    "memorisation.csv": "of runs with `noise`, a row for each probe, batch-norm mode, and clean or wrong labels, over "
    "`noise.images` training images",
    "memorisation_classes.csv": "the same for the images labelled as each class",
    "loss_curve.csv": "each loss of igb's, over p_y",
    "run.json": "status (`running`, `completed`, `interrupted`, `diverged`, `failed`) and its reason, config, seeds, "
    "versions, the commit of igb and of your config folder, host, hardware, a hash of the images, devices, precision, "
    "threads, memory, the steps after which it was resumed, and what of this was different before (`earlier`)",
    ".hydra/": "the composed config",
    "igb.log": "what was said",
    "events.out.tfevents.*": "the curves for TensorBoard",
    "checkpoints/last.ckpt": "the network at its last checkpoint and all it takes to resume",
    "checkpoints/previous.ckpt": "the one before, until the run completes",
}
INTEGER_COLUMNS, TEXT_COLUMNS = ("step", "class", "count"), ("batch_norm", "class_name", "split")
OLD_FILE_DEFAULTS = {"split": "test", "tied_fraction": math.nan, "weight": math.nan, "drift_ratio": math.nan}
# Those that TensorBoard draws for each class.
QUANTITIES = (
    "probability", "accuracy", "mean_probability", "guess_fraction", "loss", "gradient_norm", "active_fraction",
)  # fmt: skip

TRAIN = {
    "step": "optimizer steps done, this one among them",
    "epoch": "step / steps per epoch",
    "loss": "mean loss of the batch",
    "lr": "learning rate of the step",
    "images_per_second": "images trained per second, over the last steps",
}
LOSS_CURVE = {
    "from_epoch": "first epoch, counted from 0, that trains with this loss",
    "name": "the loss; of one that depends on all classes also the line along which p_y goes",
    "p_y": "probability of the true class",
    "loss": "its value",
    "gradient": "its derivative with respect to the logit of the true class",
    "weight": "what it lets through, -gradient / (1 - p_y)",
}
LABELS = ("clean", "wrong")  # by whether the given label is the true one
_MEASURED = {name: METRICS[name] for name in ("step", "epoch", "batch_norm")} | {
    "labels": "the training images with `clean` or with `wrong` labels"
}
_SHARES = {
    "count": "how many they are",
    "predicted_given": "share of them predicted as labelled",
    "predicted_true": "share predicted as what they are",
    "predicted_other": "share predicted as neither",
    "probability_given": "mean probability of the class that they are labelled as",
    "probability_true": "mean probability of the class that they are of",
    "confident": "share whose most likely class has a probability above 0.95",
}
MEMORISATION = _MEASURED | _SHARES
MEMORISATION_CLASSES = _MEASURED | {"class": "k, the class that they are labelled as"} | _SHARES
MATRICES = ("probability", "prediction")  # arrays of matrices.zarr
# The numbers that a run returns to a sweeper of Hydra's, and their columns in the summary.
OBJECTIVES = {"dominance": "dominance_end", "accuracy": "mean_accuracy", "escape_step": "escape_step"}


def class_title(k: int, name: str) -> str:
    """What a class is called where its number counts: `3 cat`, or `3` where that is its name."""
    return name if name == str(k) else f"{k} {name}"


def run_path(folder: Path) -> Path:
    """run.json: status, hardware, config."""
    return folder / RUN


def table_path(folder: Path, name: str) -> Path:
    """`metrics`, `train`, `loss_curve`, `memorisation` or `memorisation_classes`."""
    return folder / f"{name}.csv"


def matrices_path(folder: Path) -> Path:
    """The two matrices of every probe, a group of the Zarr format."""
    return folder / "matrices.zarr"


def tail_path(folder: Path) -> Path:
    """The matrices since those in matrices.zarr, while a run writes them: records of `tail_type`."""
    return folder / "matrices.tail"


def tail_type(num_classes: int) -> list[tuple[str, str] | tuple[str, str, tuple[int, int]]]:
    """What numpy makes a dtype of: the place of a probe in metrics.csv, counted from 0, and its matrices."""
    return [("place", "<i8"), *((name, "<f4", (num_classes, num_classes)) for name in MATRICES)]


def old_matrices_path(folder: Path) -> Path:
    """The same in schemas 1 and 2, as numpy writes it, with `step` and `batch_norm`."""
    return folder / "matrices.npz"


def log_path(folder: Path) -> Path:
    """The run's log file; conf/config.yaml has its name too."""
    return folder / "igb.log"


def config_path(folder: Path) -> Path:
    """The composed config, as Hydra writes it."""
    return folder / ".hydra" / "config.yaml"


def overrides_path(folder: Path) -> Path:
    """The overrides of the command line, as Hydra writes them."""
    return folder / ".hydra" / "overrides.yaml"


def hydra_path(folder: Path) -> Path:
    """Hydra's own config of the run."""
    return folder / ".hydra" / "hydra.yaml"


def checkpoint_path(folder: Path) -> Path:
    """The last checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


def previous_checkpoint_path(folder: Path) -> Path:
    """The checkpoint before the last, until the run completes."""
    return folder / "checkpoints" / "previous.ckpt"
