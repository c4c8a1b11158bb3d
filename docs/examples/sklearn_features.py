"""scikit-learn on features: cross-validation over patients, synthetic images on the training side alone.

python docs/examples/sklearn_features.py runs/artifacts/dataset/NAME runs/artifacts/synthetic/NAME
"""

import argparse

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medgan import load_arrays
from pipeline import ScanDataset


def macro_auroc(model, X, y):
    """Mean over the classes of one against rest."""
    scores = model.predict_proba(X)
    return np.mean([roc_auc_score(y == k, scores[:, k]) for k in np.unique(y)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", help="a dataset artifact")
    parser.add_argument("synthetic", help="a synthetic artifact drawn by a GAN that was trained on it")
    options = parser.parse_args()

    real = load_arrays(options.dataset, "train")
    synthetic = load_arrays(options.synthetic, real=ScanDataset(options.dataset))  # refuses what does not fit
    held_out = load_arrays(options.dataset, "validation")

    def model():
        components = min(20, len(real.y) // 4)
        return make_pipeline(PCA(components, random_state=0), StandardScaler(), LogisticRegression(max_iter=1000))

    # The GAN has seen every training patient: a fold of them judges the real images alone. What synthetic images add
    # shows on the validation patients, whom it has never seen.
    folds = StratifiedGroupKFold(3, shuffle=True, random_state=0)
    scores = []
    for train, test in folds.split(real.X, real.y, real.groups):
        assert not set(real.groups[train]) & set(real.groups[test])
        scores.append(macro_auroc(model().fit(real.X[train], real.y[train]), real.X[test], real.y[test]))
    print(f"real alone, over training patients: AUROC {np.mean(scores):.3f} (folds {np.round(scores, 3).tolist()})")

    alone = model().fit(real.X, real.y)
    both = model().fit(np.concatenate([real.X, synthetic.X]), np.concatenate([real.y, synthetic.y]))
    print(f"real alone, on validation patients: AUROC {macro_auroc(alone, held_out.X, held_out.y):.3f}")
    print(f"real and synthetic, the same:       AUROC {macro_auroc(both, held_out.X, held_out.y):.3f}")
    print(f"{len(real.y)} real, {len(synthetic.y)} synthetic, {len(held_out.y)} validation images")


if __name__ == "__main__":
    main()
