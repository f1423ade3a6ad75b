"""Runs the cases of `clients/conformance` with the Python library: see the README there.

`python conformance.py [sync|asyncio]`: the client for threads, or that for asyncio (the default).
"""

import asyncio
import json
import os
import re
import sys
import threading
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import cache_sidecar_client as sidecar
from cache_sidecar_client import aio, errors, values
from cache_sidecar_client._uuid7 import uuid7
from cache_sidecar_client.models import Field, View
from cache_sidecar_client.v1 import admin_service_pb2

Args = dict[str, Any]
STALLED = 90.0
PATIENT = 60.0
"No result depends on how slow the machine is."


class CannotGoOn(Exception):
    """The program itself cannot run a case."""


async def wait_for(value: Any) -> Any:
    """Returns a value, or what is awaited: so that both clients are called by the same code."""
    return await asyncio.wait_for(value, STALLED) if isinstance(value, Awaitable) else value


async def each(elements: Any) -> AsyncIterator[Any]:
    """Yields the elements of either kind of generator, and closes it."""
    try:
        if hasattr(elements, "__anext__"):
            while True:
                try:
                    yield await asyncio.wait_for(anext(elements), STALLED)
                except StopAsyncIteration:
                    return
        else:
            for element in elements:
                yield element
    finally:
        await wait_for(elements.aclose() if hasattr(elements, "aclose") else elements.close())


def shown(value: Any) -> Any:  # noqa: C901, PLR0911  # a line for each type
    """Returns a value as the README says."""
    if isinstance(value, values.Money):
        return str(value)
    if isinstance(value, View):
        fields = {name: shown(getattr(value, name)) for name, field in vars(type(value)).items() if isinstance(field, Field)}
        if isinstance(value, sidecar.Session):
            fields["client"] = {"ip_address": value.ip_address, "user_agent": value.user_agent}
        if isinstance(value, sidecar.Product):
            fields["rank"] = value.rank
        if isinstance(value, sidecar.Reservation):
            fields["items"] = [{"product_id": id, "quantity": quantity} for id, quantity in value.items.items()]
        if isinstance(value, sidecar.Recommendation) and value.message.HasField("terms"):
            terms = value.message.terms
            fields["terms"] = {name: getattr(terms, name) for name in ("history", "context", "similar", "popular")}
        return fields
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if hasattr(value, "_asdict"):
        return {name: shown(entry) for name, entry in value._asdict().items()}
    if isinstance(value, dict):
        return {key: shown(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [shown(entry) for entry in value]
    return value


def with_cache(name: str, view: Any) -> Args:
    """Returns the result of a read."""
    return {name: shown(view), "cache": shown(view.cache)}


def error_of(error: errors.SidecarError) -> Args:
    """Returns the result of a call that failed."""
    kind = "LoaderError" if isinstance(error, errors.FallbackFailed) else type(error).__name__
    return {
        "error": {
            "type": kind,
            "code": error.code.name,
            "reason": error.reason,
            "metadata": error.metadata,
            "fields": error.fields,
            "retry_after": error.retry_after,
            "message": str(error),
        }
    }


def time_in(text: str) -> datetime:
    """Returns the time in an argument."""
    return datetime.fromisoformat(text)


def event_in(args: Args) -> Any:
    """Returns the event in an argument."""
    more = {key: value for key, value in args.items() if key not in {"event_type", "user_id", "event_time", "products"}}
    products = [(each["product_id"], each.get("quantity", 0), each.get("unit_price")) for each in args.get("products", ())]
    at = time_in(args["event_time"]) if "event_time" in args else None
    return sidecar.event_message(
        args.get("event_type", "UNSPECIFIED"), args.get("user_id", ""), event_time=at, products=products, **more
    )


class Case:
    """One case: its client, its variables, and what can be called."""

    def __init__(self, shop: Any, joined: Any, run: str) -> None:
        self.shop = shop
        self.joined = joined
        self.variables: dict[str, Any] = {"run": run}

    async def steps(self, steps: list[Args], results: list[Any]) -> None:
        """Runs steps and appends their results."""
        for step in steps:
            args = self._filled(step.get("args", {}))
            options = self._filled(step.get("options", {}))
            try:
                if "take" in step:
                    result = await self._watch(step, args)
                else:
                    result = await self._call(step["call"], args, options)
            except errors.SidecarError as error:
                result = error_of(error)
            except TimeoutError:
                raise CannotGoOn(f"{step['call']} stalled") from None
            results.append(result)
            for name, path in step.get("save", {}).items():
                self.variables[name] = self._found(result, path)

    async def _call(self, name: str, args: Args, options: Args) -> Any:
        if name.startswith("faults."):
            return await asyncio.to_thread(control, name.removeprefix("faults."), args)
        method = CALLS.get(name)
        if method is None:
            raise CannotGoOn(f"it does not know the call {name}")
        timeout = {"timeout": options["timeout"]} if "timeout" in options else {}
        return await method(self, dict(args), options, timeout)

    async def _watch(self, step: Args, args: Args) -> Any:
        watches: dict[str, Callable[[], Any]] = {
            "products.watch": lambda: self.shop.products.watch(after_version=args.get("after_version", 0)),
            "carts.watch": lambda: self.shop.carts.watch(args["user_id"]),
            "inventory.watch": lambda: self.shop.inventory.watch(
                args.get("product_ids", ()), categories=args.get("categories", ())
            ),
        }
        events = each(watches[step["call"]]())
        try:
            first = self._event(step["call"], await anext(events))
            during: list[Any] = []
            await self.steps(step.get("during", []), during)
            where = self._filled(step.get("where", {}))
            taken: list[Any] = []
            while len(taken) < step["take"]:
                event = self._event(step["call"], await anext(events))
                if all(event.get(key) == value for key, value in where.items()):
                    taken.append(event)
        finally:
            await events.aclose()
        return {"first": first, "events": taken, "during": during}

    @staticmethod
    def _event(call: str, event: Any) -> Args:
        return with_cache("cart", event) | {"missed": event.missed} if call == "carts.watch" else shown(event)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._filled(key): self._filled(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [self._filled(entry) for entry in value]
        if not isinstance(value, str):
            return value
        if whole := re.fullmatch(r"\{([^{}]+)\}", value):
            return self._variable(whole[1])
        return re.sub(r"\{([^{}]+)\}", lambda found: str(self._variable(found[1])), value)

    def _variable(self, name: str) -> Any:
        if name.startswith("now"):
            return shown(datetime.now(UTC) + timedelta(seconds=float(name[3:] or 0)))
        if name.startswith("uuid7:"):
            return self.variables.setdefault(name, uuid7(int(datetime.now(UTC).timestamp() * 1000)))
        if name.startswith("uuid:"):
            return self.variables.setdefault(name, str(uuid.uuid4()))
        if name not in self.variables:
            raise CannotGoOn(f"no step has saved {name}")
        return self.variables[name]

    @staticmethod
    def _found(result: Any, path: str) -> Any:
        for key in path.split("."):
            try:
                result = result[int(key)] if isinstance(result, list) else result[key]
            except (KeyError, IndexError, TypeError, ValueError):
                raise CannotGoOn(f"there is no {path} in {result}") from None
        return result


Handler = Callable[[Case, Args, Args, Args], Awaitable[Any]]
CALLS: dict[str, Handler] = {}


def call(*names: str) -> Callable[[Handler], Handler]:
    """Registers what handles calls."""

    def register(handler: Handler) -> Handler:
        CALLS.update(dict.fromkeys(names, handler))
        return handler

    return register


def read_options(args: Args) -> Args:
    """Returns the keyword arguments for ReadOptions."""
    return args.pop("options", {})


def product_fields(args: Args) -> tuple[str, Args]:
    """Returns ID and fields of a product in the arguments."""
    product = dict(args.pop("product"))
    return product.pop("product_id", ""), product


@call("ready")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    await wait_for(case.shop.wait_until_ready(options.get("timeout", 30.0)))
    return {}


@call("products.get")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    more = read_options(args) | timeout
    if "fallback" not in options:
        return with_cache("product", await wait_for(case.shop.products.get(**args, **more)))
    given = options["fallback"]

    def load(product_id: str) -> sidecar.Product:
        if "error" in given:
            raise RuntimeError(given["error"])
        fields = {key: value for key, value in given.items() if key != "product_id"}
        return sidecar.Product.of(given["product_id"], **fields)

    async def load_async(product_id: str) -> sidecar.Product:
        return load(product_id)

    fallback = load_async if isinstance(case.shop, aio.Client) else load
    product = await wait_for(case.shop.products.get(**args, **more, fallback=fallback))
    return with_cache("product", product) | {"fallback": product.cache.source == "FALLBACK"}


@call("products.batch_get")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    found = await wait_for(case.shop.products.batch_get(args["product_ids"], **read_options(args), **timeout))
    missing = [id for id in dict.fromkeys(args["product_ids"]) if id not in found]
    return {
        "products": shown(list(found.values())),
        "missing": missing,
        "product_caches": [shown(p.cache) for p in found.values()],
    }


@call("products.get_joined")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    shop, calls = case.joined
    calls.clear()

    async def get(id: str) -> Any:
        try:
            if isinstance(shop, aio.Client):
                return with_cache("product", await shop.products.get(id))
            return with_cache("product", await asyncio.get_running_loop().run_in_executor(pool, shop.products.get, id))
        except errors.SidecarError as error:
            return error_of(error)

    with ThreadPoolExecutor(len(args["product_ids"])) as pool:
        results = await asyncio.gather(*map(get, args["product_ids"]))
    return {"results": results, "calls": len(calls)}


@call("products.create")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    product_id, fields = product_fields(args)
    return {"product": shown(await wait_for(case.shop.products.create(product_id, **fields, **args, **timeout)))}


@call("products.update")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    product_id, fields = product_fields(args)
    empty = {"description": "", "brand": "", "categories": (), "image_uris": (), "attributes": {}, "active": False}
    for path in args.pop("update_mask", ()):
        fields.setdefault(path, empty.get(path, ""))
    return {"product": shown(await wait_for(case.shop.products.update(product_id, **fields, **args, **timeout)))}


@call("products.modify")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    attempts = 0
    id, text, interfere = args["product_id"], args["append"], args.get("interfere")
    # The function that changes a product cannot wait: another client interferes, in a thread.
    other = sidecar.connect(options=case.shop.options) if interfere else None

    def change(product: sidecar.Product) -> Any:
        nonlocal attempts
        attempts += 1
        if other and attempts == 1:
            thread = threading.Thread(target=lambda: other.products.update(id, title=product.title + interfere))
            thread.start()
            thread.join()
        return {"title": product.title + text}

    product = await wait_for(case.shop.products.modify(id, change))
    if other:
        other.close()
    return {"product": shown(product), "attempts": attempts}


@call("products.delete")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    await wait_for(case.shop.products.delete(**args, **timeout))
    return {}


async def items(elements: Any, options: Args) -> Args:
    """Returns the elements of a list."""
    found = []
    async for element in each(elements):
        found.append(shown(element))
        if len(found) >= options.get("limit", 1000):
            break
    return {"items": found}


@call("products.list")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    more = read_options(args)
    return await items(case.shop.products.list(**args, **more, **timeout), options)


@call("products.get_categories")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return shown(await wait_for(case.shop.products.categories(**read_options(args), **args, **timeout)))


@call("sessions.list")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return await items(case.shop.sessions.list(**args, **timeout), options)


@call("carts.list_abandoned")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return await items(case.shop.carts.list_abandoned(**args, **timeout), options)


@call("inventory.list_reservations")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return await items(case.shop.inventory.list_reservations(**args, **timeout), options)


@call("sessions.create")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    session = await wait_for(case.shop.sessions.create(**args.pop("client", {}), **args, **timeout))
    return {"session_id": session.session_id, "session": shown(session)}


@call("sessions.get")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return with_cache("session", await wait_for(case.shop.sessions.get(**args, **timeout)))


@call("sessions.touch")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return {"expire_time": shown(await wait_for(case.shop.sessions.touch(**args, **timeout)))}


@call("sessions.update")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    session = dict(args.pop("session"))
    session |= session.pop("client", {})
    mask = args.pop("update_mask", ())
    if "*" in mask:
        updated = await wait_for(case.shop.sessions.replace(**{"attributes": {}} | session, **args, **timeout))
        return {"session": shown(updated)}
    removed = [path.removeprefix("attributes.") for path in mask if path.startswith("attributes.")]
    removed = [key for key in removed if key not in session.get("attributes", {})]
    updated = await wait_for(case.shop.sessions.update(**session, **args, remove_attributes=removed, **timeout))
    return {"session": shown(updated)}


@call("sessions.delete")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return {"revocation_pending": await wait_for(case.shop.sessions.delete(**args, **timeout))}


@call("sessions.rotate")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    session = await wait_for(case.shop.sessions.rotate(**args, **timeout))
    return {"session_id": session.session_id, "session": shown(session), "revocation_pending": session.revocation_pending}


@call("sessions.delete_all")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return {"deleted": await wait_for(case.shop.sessions.delete_all(**args, **timeout))}


@call("carts.get")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return with_cache("cart", await wait_for(case.shop.carts.get(**read_options(args), **args, **timeout)))


@call("carts.replace")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    cart = dict(args.pop("cart"))
    rows = [sidecar.CartItem.of(**row) for row in cart.pop("items", ())]
    return changed_cart(await wait_for(case.shop.carts.replace(cart.pop("user_id", ""), rows, **cart, **args, **timeout)))


@call("carts.add")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    item = args.pop("item")
    more = {"options": item["options"]} if "options" in item else {}
    added = case.shop.carts.add(
        args.pop("user_id"), item["product_id"], item["quantity"], item.get("unit_price"), **more, **args, **timeout
    )
    return changed_cart(await wait_for(added))


def changed_cart(cart: Any) -> Any:
    return {"cart": shown(cart), "catalogue_prices": shown(cart.catalogue_prices)}


def _cart_call(name: str) -> None:
    async def run(case: Case, args: Args, options: Args, timeout: Args) -> Any:
        return {"cart": shown(await wait_for(getattr(case.shop.carts, name)(**args, **timeout)))}

    CALLS[f"carts.{name}"] = run


for _name in ("set_quantity", "remove", "clear", "merge"):
    _cart_call(_name)


@call("carts.apply", "carts.edit")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    edit = case.shop.carts.edit(args["user_id"], request_id=args.get("request_id", ""), **timeout)
    is_async = hasattr(edit, "__aenter__")
    await edit.__aenter__() if is_async else edit.__enter__()
    for change in args.get("changes", ()):
        if item := change.get("add_item"):
            edit.add(item["product_id"], item["quantity"], item.get("unit_price"), options=item.get("options"))
        if item := change.get("set_item_quantity"):
            edit.set_quantity(item["product_id"], item.get("quantity", 0), options=item.get("options"))
        if item := change.get("remove_item"):
            edit.remove(item["product_id"], options=item.get("options"))
    await edit.__aexit__(None, None, None) if is_async else edit.__exit__(None, None, None)
    return changed_cart(edit.result) if edit.result else {}


@call("inventory.get")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return with_cache("inventory", await wait_for(case.shop.inventory.get(**read_options(args), **args, **timeout)))


@call("inventory.batch_get")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    found = await wait_for(case.shop.inventory.batch_get(args["product_ids"], **read_options(args), **timeout))
    missing = [id for id in dict.fromkeys(args["product_ids"]) if id not in found]
    return {"inventories": shown(list(found.values())), "missing": missing}


def _inventory_call(name: str, result: str) -> None:
    async def run(case: Case, args: Args, options: Args, timeout: Args) -> Any:
        if "hold_duration" in args:
            args["hold"] = args.pop("hold_duration")
        if name == "reserve":
            args["items"] = {row["product_id"]: row["quantity"] for row in args.get("items", ())}
        return {result: shown(await wait_for(getattr(case.shop.inventory, name)(**args, **timeout)))}

    CALLS[f"inventory.{name}"] = run


for _name in ("set", "adjust"):
    _inventory_call(_name, "inventory")
for _name in ("reserve", "extend", "commit", "release", "get_reservation"):
    _inventory_call(_name, "reservation")


@call("recommendations.get")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return shown(await wait_for(case.shop.recommendations.get(**read_options(args), **args, **timeout)))


@call("recommendations.import")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    lists = [
        sidecar.recommendation_list(
            {row["product_id"]: row.get("score", 0.0) for row in given.get("recommendations", ())},
            **{key: value for key, value in given.items() if key != "recommendations"},
        )
        for given in args.get("lists", ())
    ]
    stored = case.shop.recommendations.import_lists(
        args["batch_id"], lists, commit=args.get("commit", False), first_list=options.get("first_list", 0)
    )
    return {"next_list": await wait_for(stored), "committed": args.get("commit", False)}


@call("recommendations.delete")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return {"deleted_count": await wait_for(case.shop.recommendations.delete(**args, **timeout))}


def written(found: sidecar.Written) -> Args:
    """Returns the result of a write of events."""
    refused = [{"index": each.position, "reason": each.reason, "message": each.message} for each in found.refused]
    return {"event_ids": list(found.event_ids), "refused_events": refused}


@call("events.write")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return written(await wait_for(case.shop.events.write([event_in(event) for event in args["events"]], **timeout)))


@call("events.stream")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    batches = [[event_in(event) for event in batch] for batch in args["batches"]]
    return {"replies": [written(reply) async for reply in each(case.shop.events.stream(batches))]}


@call("events.purge")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return {"purged_count": await wait_for(case.shop.events.purge(**args, **timeout))}


def message_shown(message: Any) -> Any:
    """Returns the fields of a message of AdminService."""
    result: Args = {}
    for field, value in message.ListFields():
        is_list = field.message_type is None or not field.message_type.GetOptions().map_entry
        if field.message_type is None:
            result[field.name] = list(value) if is_repeated(value) else enum_shown(field, value)
        elif not is_list:
            result[field.name] = {
                key: message_shown(entry) if hasattr(entry, "ListFields") else entry for key, entry in value.items()
            }
        elif is_repeated(value):
            result[field.name] = [message_shown(entry) for entry in value]
        elif field.message_type.full_name == "google.protobuf.Duration":
            result[field.name] = values.seconds_of(value)
        elif field.message_type.full_name == "google.protobuf.Timestamp":
            result[field.name] = shown(values.time_of(value))
        else:
            result[field.name] = message_shown(value)
    return result


def is_repeated(value: Any) -> bool:
    """Returns whether a value is a list."""
    return hasattr(value, "extend") or (hasattr(value, "add") and not hasattr(value, "ListFields"))


def enum_shown(field: Any, value: Any) -> Any:
    """Returns a value, of an enum its short name."""
    if field.enum_type is None:
        return value
    prefix = re.sub(r"(?<!^)([A-Z])", r"_\1", field.enum_type.name).upper() + "_"
    return field.enum_type.values_by_number[value].name.removeprefix(prefix)


@call("admin.invalidate")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return {"invalidated": await wait_for(case.shop.admin.invalidate(**args, **timeout))}


@call("admin.get_stats")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return message_shown(await wait_for(case.shop.admin.get_stats(**args, **timeout)))


@call("admin.inspect_key")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return message_shown(await wait_for(case.shop.admin.inspect_key(**args, **timeout)))


@call("admin.get_policy")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    return message_shown(await wait_for(case.shop.admin.get_policy(**timeout)))


@call("admin.update_policy")
async def _(case: Case, args: Args, options: Args, timeout: Args) -> Any:
    policy = admin_service_pb2.DatasetPolicy()
    for name, value in args.get("policy", {}).items():
        if policy.DESCRIPTOR.fields_by_name[name].message_type is not None:
            for key, part in values.duration_fields(value).items():
                setattr(getattr(policy, name), key, part)
            getattr(policy, name).SetInParent()
        else:
            setattr(policy, name, value)
    masks = {"update": args.get("update_mask", ()), "reset": args.get("reset_mask", ())}
    return message_shown(await wait_for(case.shop.admin.update_policy(policy, **masks, **timeout)))


def control(name: str, args: Args) -> Any:
    """Sends a call to the proxy that injects faults."""
    url = os.environ["CONFORMANCE_FAULTS_URL"] + name
    body = json.dumps(args).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=STALLED) as reply:
        return json.loads(reply.read())


def options_for(address: str, *, tls: bool, **more: Any) -> sidecar.Options:
    """Returns the options that the environment asks for."""
    tls_files = {name: os.environ.get(f"CONFORMANCE_{name.upper()}") or None for name in ("ca", "cert", "key", "server_name")}
    token = os.environ.get("CONFORMANCE_TOKEN_FILE") or None
    more |= {"read_timeout": PATIENT, "write_timeout": PATIENT, "admin_timeout": PATIENT, "fallback_after": PATIENT}
    return sidecar.Options(address=address, token_file=token, **(tls_files if tls else {}), **more)


async def run_case(case: Args, connect: Callable[..., Any], run: str) -> Args:
    """Returns the line of a case."""
    through_faults = case.get("through") == "faults"
    address = os.environ["CONFORMANCE_FAULTS" if through_faults else "CONFORMANCE_ADDRESS"]
    calls: list[sidecar.Call] = []
    shop = connect(options=options_for(address, tls=not through_faults))
    joined = connect(options=options_for(address, tls=not through_faults, join=True, join_window=0.2, on_call=calls.append))
    results: list[Any] = []
    try:
        if through_faults:
            await asyncio.to_thread(control, "clear", {})
        await Case(shop, (joined, calls), run).steps(case["steps"], results)
    except CannotGoOn as error:
        return {"name": case["name"], "ok": False, "got": results, "why": str(error)}
    except Exception as error:  # noqa: BLE001  # the test reports it with the case
        return {"name": case["name"], "ok": False, "got": results, "why": f"{type(error).__name__}: {error}"}
    finally:
        await wait_for(shop.close())
        await wait_for(joined.close())
    return {"name": case["name"], "ok": True, "got": results}


async def main(style: str) -> None:
    """Runs the cases one after the other."""
    cases = json.loads(Path(os.environ["CONFORMANCE_CASES"]).read_text("utf-8"))["cases"]
    only = os.environ.get("CONFORMANCE_ONLY", "")
    connect = sidecar.connect if style == "sync" else aio.connect
    for case in cases:
        if only in case["name"]:
            line = await run_case(case, connect, os.environ["CONFORMANCE_RUN"])
            print(json.dumps(line, default=lambda value: str(value) if isinstance(value, Decimal) else repr(value)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "asyncio"))
