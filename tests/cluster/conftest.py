"""One cluster for all tests here; each has a namespace of its own, in which only restricted pods may be."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import RESTRICTED, Cluster

ROOT = Path(__file__).parents[2]
NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    binaries = Path(subprocess.run([ROOT / "deploy" / "cluster.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    with Cluster(binaries, tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    return cluster.namespace(f"test-{next(NUMBERS)}", RESTRICTED)
