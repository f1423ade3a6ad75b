"""What the pages of the libraries show: their programs, and a browser for their examples with sessions."""

import asyncio
import contextlib
import http.cookiejar
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from cache_sidecar.v1 import cart_service_pb2_grpc, product_service_pb2_grpc
from cache_sidecar.v1.cart_service_pb2 import ClearCartRequest
from cache_sidecar.v1.product_service_pb2 import DeleteProductRequest


def blocks(page: Path, language: str) -> list[str]:
    """Returns the programs of a page in a language, or what they print: blocks without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


async def forget_first(address: str) -> None:
    """Deletes from a sidecar what the first programs make: a mug, and ada's cart."""
    async with grpc.aio.insecure_channel(address) as channel:
        with contextlib.suppress(grpc.aio.AioRpcError):  # NOT_FOUND
            await product_service_pb2_grpc.ProductServiceStub(channel).DeleteProduct(DeleteProductRequest(product_id="mug"))
        await cart_service_pb2_grpc.CartServiceStub(channel).ClearCart(ClearCartRequest(user_id="ada"))


def write_first_java(folder: Path, page: Path, *, repository: str = "") -> None:
    """Writes a Maven project with the first program of the Java library's page; the library may be in a repository at a URL."""
    (folder / "src/main/java").mkdir(parents=True)
    dependencies, _ = blocks(page, "xml")
    program, _ = blocks(page, "java")
    found = (
        f"<repositories><repository><id>release</id><url>{repository}</url></repository></repositories>" if repository else ""
    )
    (folder / "pom.xml").write_text(
        f"<project><modelVersion>4.0.0</modelVersion><groupId>app</groupId><artifactId>app</artifactId><version>1</version>"
        f"<properties><maven.compiler.release>17</maven.compiler.release></properties>{found}{dependencies}"
        "<build><pluginManagement><plugins><plugin><artifactId>maven-compiler-plugin</artifactId><version>3.14.0</version>"
        "</plugin></plugins></pluginManagement></build></project>"
    )
    (folder / "src/main/java/First.java").write_text(program)


class Browser:
    """Keeps cookies."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._cookies))

    async def ask(self, path: str = "", *, form: Mapping[str, str] | None = None, body: Any = None, cookie: str = "") -> str:
        """Returns the page: GET, or POST with a form or a body of JSON; `cookie` is the session's, instead of what it keeps."""
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        if body is not None:
            data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        if body is not None:
            request.add_header("Content-Type", "application/json")
        if cookie:
            request.add_header("Cookie", f"session={cookie}")

        def read() -> str:
            with self._opener.open(request) as reply:
                text: str = reply.read().decode()
            return text

        return await asyncio.to_thread(read)

    @property
    def session(self) -> str | None:
        """The cookie of the session."""
        return next((cookie.value for cookie in self._cookies), None)
