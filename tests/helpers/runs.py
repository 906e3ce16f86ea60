"""Run folders with given numbers, as a run would have left them."""

import json

from igb.folder.schema import MEMORISATION
from igb.report.runs import find_runs

HEADER = "step,epoch,batch_norm,class,class_name,count,probability,accuracy,mean_probability,guess_fraction,loss"
HEADER += ",gradient_norm,active_fraction"
ROWS = {
    0: [(0, 1.0, 0.0, 1.0), (4, 0.6, 0.5, 0.6), (8, 0.5, 0.6, 0.45)],
    1: [(0, 0.0, 1.0, 0.0), (4, 0.4, 0.7, 0.2), (8, 0.3, 0.9, 0.1)],
    2: [(0, 0.9, 0.1, 0.9), (4, 0.5, 0.6, 0.4)],
}


def made_run(folder, rows, *, overrides=(), weight=None, wrong=(), **entries):
    """A run folder of two classes, with steps of four to an epoch; a row is step, p_0, p_1, G_0.

    All classes have the `weight`, which older files lack. `wrong` has, for each probe, the shares of the images with
    wrong labels that are predicted as labelled and as what they are; all with clean ones are predicted as labelled.
    """
    folder.mkdir(parents=True)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))
    info = {
        "status": "completed",
        "started": "1",
        "class_names": ["cat", "dog"],
        "steps_per_epoch": 4,
        "total_steps": 8,
    }
    (folder / "run.json").write_text(json.dumps({**info, **entries}))
    lines = [HEADER + (",weight" if weight is not None else "")]
    for step, first, second, guess in rows:
        for k, (p, g) in enumerate([(first, guess), (second, 1 - guess)]):
            lines.append(
                f"{step},{step / 4},running,{k},{['cat', 'dog'][k]},5,{p},{p},{p},{g},1,1,1"
                + (f",{weight}" if weight is not None else "")
            )
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if wrong:
        lines = [",".join(MEMORISATION)]
        for (step, *_), (given, true) in zip(rows, wrong, strict=True):
            lines.append(f"{step},{step / 4},running,clean,6,1,1,0,0.9,0.9,0.5")
            lines.append(f"{step},{step / 4},running,wrong,4,{given},{true},{1 - given - true},0.4,0.3,0.2")
        (folder / "memorisation.csv").write_text("\n".join(lines) + "\n")
    return folder


def sweep(folder, seeds=(0, 1, 2), started="", **config):
    for seed in seeds:
        own = {"seed": seed, "loss": {"cutoff": 0.1}, "data": {"cache_dir": str(seed)}, **config}
        made_run(
            folder / f"seed={seed}", ROWS[seed], overrides=[f"seed={seed}", "loss=pz"], started=f"{started}{seed}",
            seeds={"seed": seed}, config=own,
        )  # fmt: skip
    return find_runs([folder])[0]
