"""Orchestration: Prefect flows around library functions, MLflow tracking, and the ``medaug`` command."""
