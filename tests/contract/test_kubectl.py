"""`kubectl cache-sidecar top` and `status POD` against a running sidecar.

A kubelet would forward the port, and there is none here: a stand-in for kubectl says where the sidecar is.
"""

from pathlib import Path

import pytest

from cache_sidecar import __version__
from tests.support.kubectl_stand_in import Kubectl
from tests.support.shop import Shop
from tests.unit.test_kubectl import injected


@pytest.fixture
def kubectl(tmp_path: Path, shop: Shop) -> Kubectl:
    """It forwards to a sidecar, until it is stopped."""
    made = Kubectl(tmp_path)
    made.answer("get pod", injected("web-1"))
    made.answer("port-forward", f"Forwarding from {shop.address} -> 50051\n", stays=True)
    return made


async def test_what_a_pods_sidecar_says(kubectl: Kubectl, shop: Shop) -> None:
    await shop.get((await shop.create()).product_id)
    done = await kubectl.plugin("status", "web-1", "-n", "shop")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("serving, all well\n")
    assert f"version        {__version__}, " in done.out
    assert kubectl.calls[-1][0] == "--namespace=shop port-forward --address=127.0.0.1 pod/web-1 :50051"


async def test_a_pods_sidecar_is_watched(kubectl: Kubectl, shop: Shop) -> None:
    done = await kubectl.plugin("top", "web-1", "--count", "2", "--interval", "0.1")
    assert (done.code, done.err) == (0, "")
    assert done.out.count(" serving, all well  ") == 2


async def test_a_forward_to_nobody_is_one_line(tmp_path: Path) -> None:
    kubectl = Kubectl(tmp_path)
    kubectl.answer("get pod", injected("web-1"))
    kubectl.answer("port-forward", "Forwarding from 127.0.0.1:1 -> 50051\n", stays=True)
    done = await kubectl.plugin("status", "web-1")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("cache-sidecar: the sidecar at 127.0.0.1:1 does not answer")
