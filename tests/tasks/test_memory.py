"""The promise of bounded memory, measured: a fresh process, a store four times the limit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from soapworks.storage_schemas.layout.arrays import GROUP, create_array
from soapworks.storage_schemas.layout.recipes import FeaturesRecipe, RealInput, Subject
from soapworks.storage_schemas.store import Attempt, Store

LIMIT = 256 << 20
BLOCK = 64
SHAPE = (14, 14, 128)

PROGRAM = """
import json, re, sys
from pathlib import Path

from soapworks.storage_schemas.layout.recipes import MomentsRecipe, PcaRecipe, ResponsesRecipe
from soapworks.storage_schemas.store import Store
from soapworks.tasks.stages.fit_pca import make_moments, make_pca
from soapworks.tasks.stages.respond import make_responses

store, limit = Store(sys.argv[1]), int(sys.argv[2])
(features,) = store.products("features")
subject = features.recipe["subject"]
recipe = MomentsRecipe(subject=subject, features=features.key, precision="float32")
moments = make_moments(store, recipe, features, memory=limit, workers=2)
recipe = PcaRecipe(subject=subject, moments=(moments.key,))
pca = make_pca(store, recipe, [moments])
recipe = ResponsesRecipe(subject=subject, features=features.key, domain="real", pca=pca.key)
responses = make_responses(store, recipe, features, pca, memory=limit, workers=2)
# Not getrusage: its peak begins with that of the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"peak": peak, "n_images": responses.record["facts"]["n_images"]}))
"""


def write_features(store: Store, n_images: int) -> None:
    """Publish n images of made-up tokens, one segment, whole blocks of the same numbers."""
    recipe = FeaturesRecipe(
        subject=Subject(architecture="made_up", weights="0" * 64, layer="norm"),
        input=RealInput(
            images="1" * 64,
            n_images=n_images,
            preprocessing="squash",
            interpolation="bilinear",
            crop_fraction=1.0,
            crop_mode="center",
        ),
        image_size=(224, 224),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        precision="float32",
        dtype="float16",
        block_images=BLOCK,
    )
    attempt = store.claim(recipe)
    assert isinstance(attempt, Attempt)
    with attempt:
        group = attempt.writer.zarr_group(GROUP, mode="w")
        shape = (n_images, *SHAPE)
        array = create_array(group, "features", "features", shape, "float16", block_images=BLOCK)
        block = np.random.default_rng(0).standard_normal((BLOCK, *SHAPE)).astype(np.float16)
        for start in range(0, n_images, BLOCK):
            array[start : start + BLOCK] = block
        attempt.publish({"n_images": n_images})


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_statistics_stay_under_the_memory_limit(tmp_path: Path) -> None:
    n_images = 4 * LIMIT // (2 * int(np.prod(SHAPE))) // BLOCK * BLOCK + BLOCK
    store = Store(tmp_path)
    write_features(store, n_images)
    (product,) = store.products("features")
    assert sum(file["bytes"] for file in product.record["files"].values()) > 4 * LIMIT
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(LIMIT)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert run.returncode == 0, run.stderr
    measured = json.loads(run.stdout)
    assert measured["n_images"] == n_images
    assert measured["peak"] < LIMIT, measured
