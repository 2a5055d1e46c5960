"""An API server on a socket: the protocol that clients see (lists in pages, watches, patches, conflicts, tokens), over HTTP.

Whatever it refuses beyond that, a test scripts: `script` puts answers before it, for a path, once or always.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from tests.kube.api_store import ApiStore, Place, place_of, selects
from tests.kube.api_watch import Watch
from tests.kube.patches import json_patch, merge, merge_by_name
from tests.kube.refusals import Refusal

from finetune_operator.kube.client import ApiClient
from finetune_operator.kube.credentials import Credentials

JsonObject = dict[str, Any]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
TOKEN = "own-token"
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
_GROUPS = ("finetune.dev/v1alpha1", "coordination.k8s.io/v1", "discovery.k8s.io/v1", "events.k8s.io/v1", "apiextensions.k8s.io/v1")
_KINDS = {
    "/api/v1": (("pods", "Pod"), ("configmaps", "ConfigMap"), ("secrets", "Secret"), ("namespaces", "Namespace")),
    "/apis/finetune.dev/v1alpha1": (("finetunejobs", "FineTuneJob"),),
    "/apis/apiextensions.k8s.io/v1": (("customresourcedefinitions", "CustomResourceDefinition"),),
}


@dataclass
class _Script:
    method: str
    part: str
    answers: list[Answer]
    is_lasting: bool


@dataclass
class ApiServer(ApiStore):
    """`log` holds (verb, path) of every request, `bearers` its token; `tokens` None: whoever comes is let in."""

    tokens: set[str] | None = None
    log: list[tuple[str, str]] = field(default_factory=list)
    requests: list[web.BaseRequest] = field(default_factory=list)
    reviews: dict[str, JsonObject] = field(default_factory=dict)  # by token: the user
    documents: dict[str, JsonObject] = field(default_factory=dict)  # whole answers by path
    watches: list[Watch] = field(default_factory=list)
    oldest: int = 0  # changes before this version are forgotten

    def __post_init__(self) -> None:
        super().__init__()
        self._scripts: list[_Script] = []
        self._pages: dict[str, tuple[int, list[JsonObject]]] = {}
        self.listeners.append(lambda change: [watch.see(change) for watch in self.watches])

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=4 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.credentials = Credentials(server=f"http://127.0.0.1:{self._runner.addresses[0][1]}", ssl_context=None, token=TOKEN)
        self.client = ApiClient(self.credentials, timeout_seconds=60)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        for watch in self.watches:
            watch.end()
        await self._runner.cleanup()

    def script(self, method: str, part: str, *answers: Answer, always: bool = False) -> None:
        """The next requests of that method (`*`: any) whose path and query hold `part` get these answers, one each; `always`: for ever."""
        self._scripts.append(_Script(method, part, list(answers), always))

    def unscript(self) -> None:
        self._scripts.clear()

    def compact(self) -> None:
        """Continuations and versions of before are too old from now on."""
        self._pages.clear()
        self.oldest = self.version

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        is_list = request.method == "GET" and "limit" in request.query
        self.log.append(("LIST" if is_list else "WATCH" if "watch" in request.query else request.method, request.path))
        self.requests.append(request)
        scripted = self._scripted(request)
        try:
            if scripted is not None:
                return await scripted(request)
            bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if self.tokens is not None and bearer not in self.tokens:
                raise Refusal(401, "Unauthorized", "Unauthorized")
            return await self._serve(request)
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.status, headers=refusal.headers)

    def _scripted(self, request: web.Request) -> Answer | None:
        for script in self._scripts:
            if script.method in {"*", request.method} and script.part in request.path_qs:
                answer = script.answers[0] if script.is_lasting else script.answers.pop(0)
                if not script.answers:
                    self._scripts.remove(script)
                return answer
        return None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.path in self.documents or request.path in {"/api", "/apis", *_KINDS}:
            return web.json_response(self.documents.get(request.path) or _discovery(request.path))
        if request.path == _REVIEWS:
            return web.json_response(self._review((await request.json())["spec"]), status=201)
        place = place_of(request.path)
        if request.method == "GET" and place.name is None:
            return await self._watch(request, place) if "watch" in request.query else self._list(request, place)
        return await self._touch(request, place)

    async def _touch(self, request: web.Request, place: Place) -> web.Response:
        manager = request.query.get("fieldManager") or request.headers.get("User-Agent", "")
        if request.method == "GET":
            return web.json_response(self.get(place))
        if request.method == "POST" and place.subresource == "eviction":
            self.delete(place, {**(await request.json()).get("deleteOptions", {})})
            return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}, status=201)
        if request.method == "POST":
            return web.json_response(self.create(place, await request.json(), manager), status=201)
        if request.method == "DELETE":
            return web.json_response(self.delete(place, await request.json() if request.can_read_body else {}))
        if request.method == "PUT":
            return web.json_response(self.replace(place, await request.json(), manager))
        return await self._patch(request, place, manager)

    async def _patch(self, request: web.Request, place: Place, manager: str) -> web.Response:
        kind, body = request.content_type, json.loads(await request.read())
        if kind == "application/apply-patch+yaml":
            if place.path not in self.objects:
                return web.json_response(self.create(place, merge(body, {"metadata": {"name": place.name}}), manager), status=201)
            applied = self.owners(place).apply(manager, self.get(place), body, is_forced=request.query.get("force") == "true")
            return web.json_response(self.replace(place, applied, None))
        stored = self.get(place)
        if kind == "application/json-patch+json":
            changed = json_patch(stored, body)
        elif kind == "application/strategic-merge-patch+json":
            changed = merge_by_name(stored, body)
        elif kind == "application/merge-patch+json":
            changed = merge(stored, body)
        else:
            raise Refusal(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")
        return web.json_response(self.replace(place, changed, manager))

    def _list(self, request: web.Request, place: Place) -> web.Response:
        """Pages of one moment, whatever is written meanwhile."""
        limit, rest = int(request.query.get("limit") or 0), request.query.get("continue", "")
        if rest and rest not in self._pages:
            raise Refusal(410, "Expired", "The provided continue parameter is too old to display a consistent list result")
        version, items = self._pages.get(rest) or (self.version, self._found(place, request.query.get("labelSelector", "")))
        metadata: JsonObject = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            metadata |= {"continue": f"after-{len(self._pages) + 1}", "remainingItemCount": len(items) - limit}
            self._pages[metadata["continue"]] = (version, items[limit:])
            items = items[:limit]
        if "as=PartialObjectMetadataList" in request.headers.get("Accept", ""):
            items = [{"kind": "PartialObjectMetadata", "metadata": item["metadata"]} for item in items]
        response = web.json_response({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})
        if response.content_length and response.content_length > 128 << 10:
            response.enable_compression()  # for whoever says that it is understood
        return response

    def _found(self, place: Place, selector: str) -> list[JsonObject]:
        return [item for path, item in sorted(self.objects.items()) if place.holds(path) and selects(selector, item)]

    async def _watch(self, request: web.Request, place: Place) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or 0)
        if 0 < since < self.oldest:
            raise Refusal(410, "Expired", f"too old resource version: {since} ({self.oldest})")
        watch = Watch(place, request.query.get("labelSelector", ""), bookmarks="allowWatchBookmarks" in request.query)
        if not since:
            for item in self._found(place, watch.selector):
                watch.tell("ADDED", item)
        for change in self.changes:
            if change.version > (since or self.version):
                watch.see(change)
        self.watches.append(watch)
        try:
            return await watch.serve(request, float(request.query.get("timeoutSeconds") or 1800), lambda: self.version)
        finally:
            self.watches.remove(watch)

    def _review(self, asked: JsonObject) -> JsonObject:
        user = self.reviews.get(asked["token"])
        status = (
            {"authenticated": False} if user is None else {"authenticated": True, "user": user, "audiences": asked.get("audiences", [])}
        )
        return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}


def refusing(status: int, reason: str, message: str, **details: Any) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        raise Refusal(status, reason, message, **details)

    return answer


def saying(text: str, status: int = 200, content_type: str = "application/json") -> Answer:
    """Whatever text: what stands between may answer in place of the API server."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, status=status, content_type=content_type)

    return answer


async def drop(request: web.Request) -> web.StreamResponse:
    """The connection breaks without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hang(request: web.Request) -> web.StreamResponse:
    """The request is taken and never answered."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable code")


def _discovery(path: str) -> JsonObject:
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        versions = [(name.split("/")[0], {"groupVersion": name, "version": name.split("/")[1]}) for name in _GROUPS]
        return {"groups": [{"name": group, "versions": [version], "preferredVersion": version} for group, version in versions]}
    names = [{"name": name, "singularName": kind.lower(), "kind": kind, "verbs": _VERBS} for name, kind in _KINDS[path]]
    clusterwide = {"namespaces", "customresourcedefinitions"}
    return {"resources": [name | {"namespaced": name["name"] not in clusterwide} for name in names]}
