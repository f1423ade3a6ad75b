"""Runs the cases of the conformance suite that read, with stubs and no library around them.

A program in `stubs` makes one call after another; all else is decided here. It has the environment of the suite's programs
(`clients/conformance/README.md`), and reads calls from stdin, one line of JSON each:

    {"id": 1, "method": "/cache_sidecar.v1.ProductService/GetProduct", "request": {...}}
    {"cancel": 1}

It makes them at once and prints a line for each reply, several for a stream, or for an error, whose status is the decoded
google.rpc.Status of `grpc-status-details-bin`, or null:

    {"id": 1, "reply": {...}}
    {"id": 1, "error": {"code": 5, "status": {...}}}

Messages are in the JSON of the stubs: that of protobuf, except that durations and masks are objects in that of some.
"""

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.rpc import status_pb2

from tests.clients.expectations import filled, find
from tests.clients.faults import METHODS

SILENCE = 90.0
"Seconds in which a program has to say something."
_CALLS = {
    "products": (
        "ProductService",
        {
            "get": "GetProduct",
            "batch_get": "BatchGetProducts",
            "list": "ListProducts",
            "get_categories": "GetCategories",
            "create": "CreateProduct",
            "update": "UpdateProduct",
            "delete": "DeleteProduct",
            "watch": "WatchProducts",
        },
    ),
    "sessions": (
        "SessionService",
        {
            "create": "CreateSession",
            "get": "GetSession",
            "touch": "TouchSession",
            "update": "UpdateSession",
            "delete": "DeleteSession",
            "rotate": "RotateSession",
            "list": "ListUserSessions",
            "delete_all": "DeleteUserSessions",
        },
    ),
    "carts": (
        "CartService",
        {
            "get": "GetCart",
            "replace": "ReplaceCart",
            "add": "AddCartItem",
            "set_quantity": "SetCartItemQuantity",
            "remove": "RemoveCartItem",
            "clear": "ClearCart",
            "merge": "MergeCarts",
            "apply": "ApplyCartChanges",
            "list_abandoned": "ListAbandonedCarts",
            "watch": "WatchCart",
        },
    ),
    "inventory": (
        "InventoryService",
        {
            "get": "GetInventory",
            "batch_get": "BatchGetInventory",
            "set": "SetInventory",
            "adjust": "AdjustInventory",
            "reserve": "ReserveInventory",
            "extend": "ExtendReservation",
            "commit": "CommitReservation",
            "release": "ReleaseReservation",
            "get_reservation": "GetReservation",
            "list_reservations": "ListReservations",
            "watch": "WatchInventory",
        },
    ),
    "recommendations": ("RecommendationService", {"get": "GetRecommendations", "delete": "DeleteRecommendations"}),
    "admin": (
        "AdminService",
        {
            "invalidate": "Invalidate",
            "get_stats": "GetStats",
            "inspect_key": "InspectKey",
            "get_policy": "GetPolicy",
            "update_policy": "UpdatePolicy",
        },
    ),
}
CALLS: dict[str, MethodDescriptor] = {
    f"{noun}.{verb}": METHODS[f"/cache_sidecar.v1.{service}/{method}"]
    for noun, (service, methods) in _CALLS.items()
    for verb, method in methods.items()
}
"The methods that a stub calls by itself: the suite's other calls are helpers of libraries, or stream requests."


def is_read(method: MethodDescriptor) -> bool:
    """Returns whether a method reads: those that change something have other names."""
    return method.name.startswith(("Get", "BatchGet", "List", "Search", "Inspect", "Watch"))


def is_for_stubs(case: dict[str, Any]) -> bool:
    """Returns whether stubs run a case: it reads, and each of its steps is a call of the protos, without a library's help."""
    steps = list(steps_of(case["steps"]))
    return (
        "through" not in case
        and all(step["call"] in CALLS and step.get("options", {}).keys() <= {"limit"} for step in steps)
        and all(step.get("args", {}).keys() <= set(CALLS[step["call"]].input_type.fields_by_name) for step in steps)
        and any(is_read(CALLS[step["call"]]) for step in steps)
    )


def steps_of(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Returns steps, and those that they have `during` a watch."""
    for step in steps:
        yield step
        yield from steps_of(step.get("during", []))


class Refused(Exception):
    """A call failed; the argument is the error, as in the results of the suite."""


class Caller:
    """A running program that makes calls."""

    def __init__(self, process: asyncio.subprocess.Process, objects: bool) -> None:
        self._process = process
        self._objects = objects
        self._ids = itertools.count()
        self._said: dict[int, asyncio.Queue[dict[str, Any] | None]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, command: list[str], environment: dict[str, str], objects: bool) -> AsyncIterator["Caller"]:
        """Runs a program; `objects`: durations and masks are objects in the JSON of its stubs."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment, limit=2**24)
        assert process.stdin is not None
        caller = cls(process, objects)
        listening = asyncio.create_task(caller._listen())
        try:
            yield caller
            process.stdin.close()
            assert await asyncio.wait_for(process.wait(), SILENCE) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await listening

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            self._said[said["id"]].put_nowait(said)
        for queue in self._said.values():
            queue.put_nowait(None)

    def _send(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")

    @contextlib.asynccontextmanager
    async def call(
        self, method: MethodDescriptor, args: dict[str, Any]
    ) -> AsyncIterator[Callable[[], Awaitable[dict[str, Any]]]]:
        """Makes a call, and returns what awaits its next reply or raises Refused; a stream ends with the context."""
        id = next(self._ids)
        self._said[id] = asyncio.Queue()
        request = _to_json(method.input_type, args, self._objects)
        self._send({"id": id, "method": f"/{method.containing_service.full_name}/{method.name}", "request": request})

        async def next_reply() -> dict[str, Any]:
            said = await asyncio.wait_for(self._said[id].get(), SILENCE)
            assert said is not None, "the program has ended"
            if "error" in said:
                raise Refused(_error(**said["error"]))
            return _from_json(method.output_type, said["reply"])

        try:
            yield next_reply
        finally:
            if method.server_streaming:
                self._send({"cancel": id})

    async def unary(self, method: MethodDescriptor, args: dict[str, Any]) -> dict[str, Any]:
        """Returns the reply; raises Refused. Repeats what is refused as UNAVAILABLE, since all writes have a request_id."""
        give_up = time.monotonic() + SILENCE
        while True:
            try:
                async with self.call(method, args) as next_reply:
                    return await next_reply()
            except Refused as error:
                if error.args[0]["code"] != "UNAVAILABLE" or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(error.args[0]["retry_after"] or 0.1)


async def run_case(caller: Caller, case: dict[str, Any], run: str) -> list[dict[str, Any]]:
    """Returns the result of each step, as a library's program prints them."""
    uuids: dict[str, str] = {}
    text = re.sub(r"\{uuid:(\w+)\}", lambda found: uuids.setdefault(found[1], str(uuid4())), json.dumps(case["steps"]))
    variables: dict[str, Any] = {"run": run}
    try:
        return [await _run_step(caller, step, variables) for step in json.loads(text)]
    except Exception as error:
        error.add_note(case["name"])
        raise


async def _run_step(caller: Caller, step: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
    method = CALLS[step["call"]]
    args = filled(step.get("args", {}), variables)
    if "request_id" in method.input_type.fields_by_name:
        args = {"request_id": str(uuid4())} | args
    try:
        if method.server_streaming:
            result = await _watch(caller, step, method, args, variables)
        elif method.name.startswith("List"):
            result = await _list(caller, method, args, step.get("options", {}).get("limit", 1000))
        else:
            result = await caller.unary(method, args)
    except Refused as error:
        result = {"error": error.args[0]}
    for name, path in step.get("save", {}).items():
        variables[name] = find(result, path)
    return result


async def _list(caller: Caller, method: MethodDescriptor, args: dict[str, Any], limit: int) -> dict[str, Any]:
    (elements,) = (field.name for field in method.output_type.fields if field.is_repeated)
    items: list[Any] = []
    token = ""
    while len(items) < limit:
        page = await caller.unary(method, args | {"page_token": token})
        items += page.get(elements, [])
        if not (token := page.get("next_page_token", "")):
            break
    return {"items": items[:limit]}


async def _watch(
    caller: Caller, step: dict[str, Any], method: MethodDescriptor, args: dict[str, Any], variables: dict[str, Any]
) -> dict[str, Any]:
    where = filled(step.get("where", {}), variables)
    async with caller.call(method, args) as next_event:
        first = await next_event()
        during = [await _run_step(caller, inner, variables) for inner in step.get("during", [])]
        taken: list[Any] = []
        while len(taken) < step.get("take", 0):
            event = await next_event()
            if all(find(event, path) == value for path, value in where.items()):
                taken.append(event)
        return {"first": first, "events": taken, "during": during}


def _to_json(message: Descriptor, fields: dict[str, Any], objects: bool) -> dict[str, Any]:
    """Returns a message of the suite in the JSON of stubs."""
    found = {}
    for name, value in fields.items():
        field = message.fields_by_name[name]
        is_list = field.is_repeated and not _is_map(field)
        found[field.camelcase_name] = (
            [_value_to_json(field, element, objects) for element in value] if is_list else _value_to_json(field, value, objects)
        )
    return found


def _value_to_json(field: FieldDescriptor, value: Any, objects: bool) -> Any:
    if field.enum_type is not None:
        return _prefix(field) + value
    if field.message_type is None or _is_map(field):
        return value
    match field.message_type.full_name:
        case "google.type.Money":
            amount, currency = value.split(" ")
            units = int(Decimal(amount))
            return {"units": units, "nanos": int((Decimal(amount) - units).scaleb(9)), "currencyCode": currency}
        case "google.protobuf.Duration":
            whole = int(value)
            return {"seconds": whole, "nanos": round((value - whole) * 1e9)} if objects else f"{value:.9f}s"
        case "google.protobuf.FieldMask":
            camel = [re.sub("_(.)", lambda part: part[1].upper(), path) for path in value]
            return {"paths": value} if objects else ",".join(camel)
        case _:
            return _to_json(field.message_type, value, objects)


def _from_json(message: Descriptor, said: dict[str, Any]) -> dict[str, Any]:
    """Returns a message as the suite has it; raises KeyError for a field that the protos do not have."""
    names = {field.camelcase_name: field for field in message.fields}
    found = {}
    for name, value in said.items():
        field = names[name]
        is_list = field.is_repeated and not _is_map(field)
        found[field.name] = [_value_from_json(field, each) for each in value] if is_list else _value_from_json(field, value)
    return found


def _value_from_json(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is None:
        return _scalar_from_json(field, value)
    if _is_map(field):
        of = field.message_type.fields_by_name["value"]
        return {key: _value_from_json(of, each) for key, each in value.items()}
    match field.message_type.full_name:
        case "google.type.Money":
            amount = int(value.get("units", 0)) + Decimal(value.get("nanos", 0)).scaleb(-9)
            return f"{amount.normalize():f} {value['currencyCode']}"
        case "google.protobuf.Duration":
            is_text = isinstance(value, str)
            return float(value.removesuffix("s")) if is_text else int(value.get("seconds", 0)) + value.get("nanos", 0) / 1e9
        case "google.protobuf.Timestamp":
            return value
        case _:
            return _from_json(field.message_type, value)


def _scalar_from_json(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return value.removeprefix(_prefix(field))
    # 64-bit integers are strings in the JSON of protobuf.
    return int(value) if field.cpp_type in {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64} else value


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _prefix(field: FieldDescriptor) -> str:
    assert field.enum_type is not None
    return str(field.enum_type.values_by_number[0].name).removesuffix("UNSPECIFIED")


_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def _error(code: int, status: dict[str, Any] | None) -> dict[str, Any]:
    """Returns an error as the suite has it; stubs have no types of errors, but reasons, after which libraries name theirs."""
    found: dict[str, Any] = {"code": _CODES[code], "type": "", "reason": "", "metadata": {}, "fields": {}, "retry_after": None}
    if status is None:
        return found
    assert status.keys() <= set(status_pb2.Status.DESCRIPTOR.fields_by_name)
    assert status["code"] == code
    found["message"] = status["message"]
    for detail in status["details"]:
        message = descriptor_pool.Default().FindMessageTypeByName(detail["@type"].removeprefix("type.googleapis.com/"))
        decoded = _from_json(message, {name: value for name, value in detail.items() if name != "@type"})
        found |= {name: decoded[name] for name in ("reason", "metadata") if name in decoded}
        found["fields"] |= {each["field"]: each["description"] for each in decoded.get("field_violations", [])}
        found["retry_after"] = decoded.get("retry_delay", found["retry_after"])
    found["type"] = found["reason"].title().replace("_", "")
    return found
