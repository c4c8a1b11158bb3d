"""The MLflow model that a generator is logged as.

MLflow keeps this file in the model and runs it whenever the model is loaded ("models from code"): no pickle, and
nothing of this project but the copies of ``medgan`` and ``pipeline`` that lie in the model, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

import medgan


class ServedGenerator(PythonModel):
    """Labels in, images out."""

    def load_context(self, context: Any) -> None:
        """Opens the generator, once for each process."""
        self.generator = medgan.load(context.artifacts["generator"])

    # MLflow gives a dictionary of arrays, too; but any other type hint it would take for the model's signature.
    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """Draws one image for each label.

        Args:
            context: MLflow's.
            model_input: ``{"labels": int64 [N]}``, or a data frame with that column.
            params: ``seed``, ``truncation`` and ``start``; see :meth:`medgan.LoadedGenerator.sample`.

        Returns:
            float32 [N, C, H, W] in [-1, 1].

        Raises:
            MlflowException: a label or a parameter is wrong; a server answers with status 400 and the reason.
        """
        given = params or {}
        labels = np.asarray(model_input["labels"]).reshape(-1).tolist()
        try:
            images = self.generator.sample(
                labels,
                int(given.get("seed", 0)),
                float(given.get("truncation", 1.0)),
                start=int(given.get("start", 0)),
            )
        except ValueError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        return images.numpy()


set_model(ServedGenerator())
