"""Writes importance.json: trials of a made-up objective, and what Optuna's PED-ANOVA makes of them.

    pip install optuna==5.0.0 numpy==2.4.6 scipy==1.17.1
    python importance.py

The space is that of the sweep file's lines below, with every kind of domain in it; Optuna draws the trials.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

SPACE = """\
learning_rate = { float = [1e-4, 1e-2], log = true }
dropout = { float = [0.0, 0.6] }
label_smoothing = { float = [0.0, 0.3], step = 0.1 }
fc_units = { int = [8, 256], log = true }
batch_size = { int = [16, 64], step = 16 }
head = { choice = ["flatten", "mean", "mean_max"] }
optimizer = { choice = ["adam", "adamw"] }
weight_decay = { float = [1e-4, 1e-1], log = true, when = { optimizer = "adamw" } }
"""
# Trials and seeds.
CASES = ((12, 1), (60, 2), (200, 3))


def objective(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    dropout = trial.suggest_float("dropout", 0.0, 0.6)
    smoothing = trial.suggest_float("label_smoothing", 0.0, 0.3, step=0.1)
    units = trial.suggest_int("fc_units", 8, 256, log=True)
    batch = trial.suggest_int("batch_size", 16, 64, step=16)
    head = trial.suggest_categorical("head", ["flatten", "mean", "mean_max"])
    optimizer = trial.suggest_categorical("optimizer", ["adam", "adamw"])
    score = 0.9 - 0.2 * (math.log10(rate) + 2.7) ** 2 - (dropout - 0.3) ** 2 - 0.05 * smoothing
    score += 0.05 * (head == "mean_max") + 0.01 * math.log2(units) - 0.0005 * batch
    if optimizer == "adamw":
        decay = trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True)
        score += 0.1 - 0.05 * (math.log10(decay) + 2) ** 2
    # As coarse as an accuracy on 80 clips, so that some are equal.
    return round(score * 80) / 80


def case(trials: int, seed: int) -> dict:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    importances = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {"trials": [[trial.params, trial.value] for trial in study.trials], "importances": importances}


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    golden = {"optuna": optuna.__version__, "space": SPACE, "cases": [case(*sizes) for sizes in CASES]}
    (Path(__file__).parent / "importance.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
