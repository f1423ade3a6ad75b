"""The catalogue."""

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Unpack

from cache_sidecar_client import _methods, values
from cache_sidecar_client._async.caller import Caller, resume_after
from cache_sidecar_client._async.join import MAX_BATCH, Group, Joiner
from cache_sidecar_client._l0 import ProductMemory
from cache_sidecar_client.errors import (
    ChangesExpired,
    EtagMismatch,
    InvalidRequest,
    ReplyTooLarge,
    SidecarError,
    Unavailable,
    WatchTooSlow,
    not_found,
)
from cache_sidecar_client.models import (
    CHANGE,
    PRODUCT_ORDER,
    Cache,
    Categories,
    Product,
    ProductChange,
    ProductFields,
    cache_of,
    categories_of,
    product_message,
    read_options,
)
from cache_sidecar_client.v1 import product_service_pb2

_log = logging.getLogger("cache_sidecar_client")


class Products:
    """Reads and changes the catalogue."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._joiner = Joiner(caller.options, self._fetch) if caller.options.join else None
        self.memory = ProductMemory(caller.options.l0) if caller.options.l0 else None
        "L0; None if it is off."
        self._fed_in = 0
        "The process with the watch that feeds it; 0 without one."

    async def get(
        self,
        product_id: str,
        *,
        max_age: float | None = None,
        bypass: bool = False,
        timeout: float | None = None,
        fallback: Callable[[str], Awaitable[Product]] | None = None,
    ) -> Product:
        """Returns a product.

        `max_age` is the greatest age in seconds that is of use; with `bypass`, it is read from PostgreSQL. `fallback` is the
        application's own loader, for when the sidecar does not answer within `Options.fallback_after`.

        Raises NotFound if there is no such product.
        """
        if self.memory is None:
            return await self._read(product_id, max_age, bypass, timeout, fallback)
        if self._fed_in != os.getpid():
            self._caller.channel.check_owner()
            self._fed_in = os.getpid()
            self._caller.channel.spawn(self._feed)
        if not bypass and (held := self.memory.get(product_id, max_age)) is not None:
            return held
        began = self.memory.begin()
        product = await self._read(product_id, max_age, bypass, timeout, fallback)
        self.memory.put(product_id, product, began)
        return product

    async def batch_get(
        self,
        product_ids: Iterable[str],
        *,
        max_age: float | None = None,
        bypass: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Product]:
        """Returns the products that exist, by their IDs, in the order of the request. Any number: 500 are read at once."""
        found: dict[str, Product] = {}
        for ids in values.chunks(list(dict.fromkeys(product_ids)), MAX_BATCH):
            found |= (await self._batch(ids, max_age, bypass, timeout))[0]
        return found

    async def list(
        self,
        *,
        category: str = "",
        page_size: int = 0,
        order: str = "PRODUCT_ID",
        include_inactive: bool = False,
        max_age: float | None = None,
        bypass: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[Product, None]:
        """Yields the active products of a category, or all, page by page; `timeout` is for each page.

        `order` is PRODUCT_ID, TITLE, PRICE, NEWEST or RANK. With `include_inactive`, all products are, from PostgreSQL.
        `max_age` and `bypass` are as for `get`.
        """
        request = product_service_pb2.ListProductsRequest(
            category=category,
            page_size=page_size,
            order=PRODUCT_ORDER.number(order),  # type: ignore[arg-type]  # a number of this enum
            include_inactive=include_inactive,
            options=read_options(max_age, bypass),
        )
        while True:
            reply = await self._caller.call(_methods.LIST_PRODUCTS, request, timeout)
            cache = cache_of(reply.cache)
            for message in reply.products:
                yield Product(message, cache)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def categories(
        self, *, max_age: float | None = None, bypass: bool = False, timeout: float | None = None
    ) -> Categories:
        """Returns the categories of the active products as trees, with counts; `max_age` and `bypass` are as for `get`."""
        request = product_service_pb2.GetCategoriesRequest(options=read_options(max_age, bypass))
        return categories_of(await self._caller.call(_methods.GET_CATEGORIES, request, timeout))

    async def create(
        self,
        product_id: str,
        *,
        request_id: str = "",
        timeout: float | None = None,
        **fields: Unpack[ProductFields],
    ) -> Product:
        """Creates a product; `title` and `price` are required. Raises AlreadyExists if the ID is taken."""
        request = product_service_pb2.CreateProductRequest(product=product_message(product_id, fields), request_id=request_id)
        reply = await self._caller.call(_methods.CREATE_PRODUCT, request, timeout)
        return self._changed(Product(reply.product))

    async def update(
        self,
        product_id: str,
        *,
        etag: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **fields: Unpack[ProductFields],
    ) -> Product:
        """Sets the given fields, and no others.

        Raises NotFound if there is no such product, and EtagMismatch if `etag` is given and is not the current one.
        """
        request = product_service_pb2.UpdateProductRequest(product=product_message(product_id, fields), request_id=request_id)
        request.product.etag = etag
        request.update_mask.paths.extend(fields)
        reply = await self._caller.call(_methods.UPDATE_PRODUCT, request, timeout)
        return self._changed(Product(reply.product))

    async def modify(
        self, product_id: str, change: Callable[[Product], ProductFields], *, attempts: int = 5, timeout: float | None = None
    ) -> Product:
        """Reads a product, asks `change` for the fields to set, and sets them if nobody has changed the product meanwhile.

        Otherwise it begins again with the present product: `change` is called up to `attempts` times and must have no other
        effect. Raises EtagMismatch after the last one.
        """
        product = await self.get(product_id, timeout=timeout)
        while True:
            attempts -= 1
            try:
                return await self.update(product_id, etag=product.etag, timeout=timeout, **change(product))
            except EtagMismatch:
                if attempts <= 0:
                    raise
            product = await self.get(product_id, bypass=True, timeout=timeout)

    async def delete(self, product_id: str, *, etag: str = "", request_id: str = "", timeout: float | None = None) -> None:
        """Deletes a product. Raises NotFound and EtagMismatch as `update`."""
        request = product_service_pb2.DeleteProductRequest(product_id=product_id, etag=etag, request_id=request_id)
        await self._caller.call(_methods.DELETE_PRODUCT, request, timeout)
        if self.memory is not None:
            self.memory.drop(product_id)

    async def watch(
        self, *, after_version: int = 0, on_break: Callable[[], None] | None = None
    ) -> AsyncGenerator[ProductChange, None]:
        """Yields the changes of the catalogue, and goes on after the connection was lost, from where it was.

        The first event is WATCH_STARTED. Whenever changes may have been missed, another one comes, with `missed`: read again
        what you hold. `on_break` is called when the connection is lost. Ends only when the generator or the client is
        closed.
        """
        request = product_service_pb2.WatchProductsRequest(after_version=after_version)
        began = missed = False
        repeats = 0
        while True:
            try:
                async with aclosing(self._caller.stream(_methods.WATCH_PRODUCTS, request)) as replies:
                    async for reply in replies:
                        repeats = 0
                        request.after_version = reply.version
                        change = _change(reply, missed=missed)
                        # Resumed without a gap: an event that says nothing. L0 has to know of it, though.
                        if change.kind != "WATCH_STARTED" or missed or not began or on_break is not None:
                            yield change
                        began, missed = True, False
                failure: SidecarError = Unavailable("the stream has ended")
            except SidecarError as error:
                failure = error
            if on_break is not None:
                on_break()
            # Version 0 is no place to resume at: then the watch begins anew, with what is present.
            missed = missed or (began and not request.after_version)
            if isinstance(failure, ChangesExpired) and (began or after_version):
                request.after_version = after_version = 0
                missed = True
            elif not isinstance(failure, WatchTooSlow):
                await resume_after(self._caller, failure, repeats)
                repeats += 1

    def _read(
        self,
        product_id: str,
        max_age: float | None,
        bypass: bool,
        timeout: float | None,
        fallback: Callable[[str], Awaitable[Product]] | None,
    ) -> Awaitable[Product]:
        if fallback is not None:
            return self._loadable(product_id, max_age, bypass, timeout, fallback)
        if self._joiner is not None and _is_joinable(product_id):
            self._caller.channel.check_owner()
            return self._joiner.get(product_id, (max_age, bypass, timeout))
        return self._single(product_id, max_age, bypass, timeout)

    async def _loadable(
        self,
        product_id: str,
        max_age: float | None,
        bypass: bool,
        timeout: float | None,
        fallback: Callable[[str], Awaitable[Product]],
    ) -> Product:
        request = product_service_pb2.GetProductRequest(product_id=product_id, options=read_options(max_age, bypass))

        async def run() -> Product:
            return await fallback(product_id)

        product, is_loaded = await self._caller.call_or(_methods.GET_PRODUCT, request, timeout, _product, run)
        return Product(product.message, Cache("FALLBACK", 0, 0.0, True)) if is_loaded else product

    async def _single(self, product_id: str, max_age: float | None, bypass: bool, timeout: float | None) -> Product:
        request = product_service_pb2.GetProductRequest(product_id=product_id, options=read_options(max_age, bypass))
        return _product(await self._caller.call(_methods.GET_PRODUCT, request, timeout))

    async def _batch(
        self, product_ids: Sequence[str], max_age: float | None, bypass: bool, timeout: float | None
    ) -> tuple[dict[str, Product], tuple[str, ...]]:
        """Returns the products that exist, and the IDs of those that do not."""
        request = product_service_pb2.BatchGetProductsRequest(product_ids=product_ids, options=read_options(max_age, bypass))
        try:
            reply = await self._caller.call(_methods.BATCH_GET_PRODUCTS, request, timeout)
        except ReplyTooLarge:
            if len(product_ids) == 1:
                raise
            middle = len(product_ids) // 2
            first, some = await self._batch(product_ids[:middle], max_age, bypass, timeout)
            second, others = await self._batch(product_ids[middle:], max_age, bypass, timeout)
            return first | second, some + others
        pairs = zip(reply.products, reply.product_caches, strict=True)
        return {message.product_id: Product(message, cache) for message, cache in pairs}, tuple(reply.missing)

    async def _fetch(self, product_ids: Sequence[str], group: Group) -> dict[str, Product | Exception]:
        """Returns the product, or the error, of each ID: for the joiner."""
        max_age, bypass, timeout = group
        if len(product_ids) == 1:
            return {product_ids[0]: await self._single(product_ids[0], max_age, bypass, timeout)}
        try:
            found, missing = await self._batch(product_ids, max_age, bypass, timeout)
        except InvalidRequest:
            # One of the IDs breaks a rule: the others are to be read all the same.
            middle = len(product_ids) // 2
            halves: dict[str, Product | Exception] = {}
            for ids in (product_ids[:middle], product_ids[middle:]):
                try:
                    halves |= await self._fetch(ids, group)
                except SidecarError as error:
                    halves |= dict.fromkeys(ids, error)
            return halves
        results: dict[str, Product | Exception] = {**found, **{id: not_found("product", id) for id in missing}}
        for id in product_ids:
            if id not in results:  # its row cannot be read: a single read says why
                try:
                    results[id] = await self._single(id, max_age, bypass, timeout)
                except SidecarError as error:
                    results[id] = error
        return results

    async def _feed(self) -> None:
        """Keeps L0 up to date until the client is closed."""
        memory = self.memory
        if memory is None:
            return
        try:
            async with aclosing(self.watch(on_break=memory.on_break)) as changes:
                async for change in changes:
                    memory.on_change(change)
        except SidecarError as error:
            _log.debug("the watch of L0 has ended: %s", error)
        finally:
            # Closed, refused, or the application's metadata failed: without a watch there is no L0. The next miss tries again.
            memory.on_break()
            self._fed_in = 0

    def _changed(self, product: Product) -> Product:
        """Lets L0 know of a change of this client's own, before the watch tells it."""
        if self.memory is not None:
            self.memory.on_change(ProductChange("UPDATED", product.product_id, int(product.etag, 16), None, False))
        return product


def _is_joinable(product_id: str) -> bool:
    """Returns whether a batch can have this ID: one that breaks a rule would fail the reads of all others."""
    return 0 < len(product_id) <= 128 and product_id.isprintable()


def _product(reply: product_service_pb2.GetProductResponse) -> Product:
    return Product(reply.product, reply.cache)


def _change(reply: product_service_pb2.WatchProductsResponse, *, missed: bool) -> ProductChange:
    kind = CHANGE.name(reply.kind)
    time = values.time_of(reply.change_time)
    return ProductChange(kind, reply.product_id, reply.version, time, missed and kind == "WATCH_STARTED")
