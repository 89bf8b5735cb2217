"""When and where the pipeline runs, and what becomes of a model: Prefect, DVC and MLflow's registry."""
