"""What can be left out of an installation, and how to say so when it is needed."""

from __future__ import annotations

# Package as it is imported → the extra of ours that brings it.
EXTRAS = {
    "aiolimiter": "sidecar", "cel": "sidecar", "kafka": "sidecar", "rfc8785": "sidecar",
    "duckdb": "audit", "minio": "audit", "pygal": "audit", "weasyprint": "pdf",
    "opentelemetry": "otel", "grafana_client": "grafana", "grafana_foundation_sdk": "grafana", "pyarrow": "notebook", "pandas": "notebook",
    "torch": "engine", "transformers": "engine", "accelerate": "engine", "gguf": "engine", "nnsight": "engine", "psutil": "engine",
    "joblib": "fit", "matplotlib": "fit", "scipy": "fit", "sklearn": "fit",
}  # fmt: skip


def missing(error: ModuleNotFoundError) -> str | None:
    """One line that says what to install; None for a module that none of our extras brings."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    return f"this needs the package '{package}': pip install 'barograph[{extra}]'" if extra else None
