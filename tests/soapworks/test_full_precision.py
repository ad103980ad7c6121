import threading

import pytest
import torch

from soapworks._full_precision import full_precision

matmul = torch.backends.cuda.matmul
pytestmark = pytest.mark.skipif(
    not hasattr(matmul, "fp32_precision"), reason="this torch has the older setting"
)


@pytest.fixture(autouse=True)
def restored():
    yield
    torch.set_float32_matmul_precision("highest")
    matmul.fp32_precision = "none"


@pytest.mark.parametrize("outside", ["none", "ieee", "tf32"])
def test_precision_of_products_is_restored(outside):
    matmul.fp32_precision = outside
    with full_precision("cpu"):
        assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == outside


def test_tensorfloat_by_the_older_setting_is_switched_off_and_on_again():
    torch.set_float32_matmul_precision("high")
    with full_precision("cpu"):
        assert matmul.fp32_precision == "ieee"
    assert torch.get_float32_matmul_precision() == "high"
    assert matmul.fp32_precision == "tf32"


def test_a_thread_that_ends_first_leaves_the_others_their_precision():
    matmul.fp32_precision = "tf32"
    inside, over = threading.Event(), threading.Event()

    def first():
        with full_precision("cpu"):
            inside.set()
            over.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    with full_precision("cpu"):
        over.set()
        thread.join()
        assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == "tf32"
