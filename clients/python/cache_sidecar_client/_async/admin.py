"""What operators do: needs the role `admin`, or `read` for what changes nothing."""

from collections.abc import Sequence

from cache_sidecar_client import _methods
from cache_sidecar_client._async.caller import Caller
from cache_sidecar_client.v1 import admin_service_pb2


class Admin:
    """Looks into a sidecar and changes its policy. Replies are the messages of the API."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def invalidate(
        self, dataset: str, ids: Sequence[str] = (), *, all: bool = False, timeout: float | None = None
    ) -> int:
        """Drops entries of the caches, or all of a dataset; returns their number."""
        request = admin_service_pb2.InvalidateRequest(dataset=dataset, ids=ids, all=all)
        return int((await self._caller.call(_methods.INVALIDATE, request, timeout)).invalidated)

    async def get_stats(self, dataset: str = "", *, timeout: float | None = None) -> admin_service_pb2.GetStatsResponse:
        """Returns the statistics of a dataset, or of all."""
        request = admin_service_pb2.GetStatsRequest(dataset=dataset)
        return await self._caller.call(_methods.GET_STATS, request, timeout)

    async def inspect_key(self, dataset: str, id: str, *, timeout: float | None = None) -> admin_service_pb2.InspectKeyResponse:
        """Returns what each tier holds of a key."""
        request = admin_service_pb2.InspectKeyRequest(dataset=dataset, id=id)
        return await self._caller.call(_methods.INSPECT_KEY, request, timeout)

    async def get_policy(self, *, timeout: float | None = None) -> admin_service_pb2.GetPolicyResponse:
        """Returns the policy in effect."""
        return await self._caller.call(_methods.GET_POLICY, admin_service_pb2.GetPolicyRequest(), timeout)

    async def update_policy(
        self,
        policy: admin_service_pb2.DatasetPolicy,
        *,
        update: Sequence[str] = (),
        reset: Sequence[str] = (),
        timeout: float | None = None,
    ) -> admin_service_pb2.UpdatePolicyResponse:
        """Sets keys of the policy of one sidecar, and resets others, until its next start."""
        request = admin_service_pb2.UpdatePolicyRequest(policy=policy)
        request.update_mask.paths.extend(update)
        request.reset_mask.paths.extend(reset)
        return await self._caller.call(_methods.UPDATE_POLICY, request, timeout)
