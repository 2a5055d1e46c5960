"""From a request to a member that has said `hello`: path, token, WebSocket, first message. What fails is answered with the reason."""

import asyncio

from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import ValidationError

from finetune_contract.messages import MAX_FRAME_BYTES, Hello, parse_from_agent
from finetune_operator.coordinator.connection import Connection
from finetune_operator.coordinator.door import Guest
from finetune_operator.coordinator.identity import Authenticate, TokenRefused
from finetune_operator.coordinator.refusals import Refusals, describe
from finetune_operator.times import PING_SECONDS

CHANNEL_PATH = "/channel"
_MOST_AT_FULL_PACE = 1000  # connections; more of them share the pace, so that heartbeats cost the same at any number


def heartbeat_seconds(num_connected: int) -> float:
    """Pace of the pings of one more connection; an answer may take half of it."""
    return PING_SECONDS * max(1.0, num_connected / _MOST_AT_FULL_PACE)


class Handshake:
    """`open` and then `receive_hello`, once for each connection."""

    def __init__(self, authenticate: Authenticate, refusals: Refusals) -> None:
        self._authenticate, self._refusals = authenticate, refusals

    async def open(self, request: web.BaseRequest, guest: Guest | None, heartbeat: float) -> Connection | web.Response:
        """An open WebSocket of the token's member, or the answer that refuses it."""
        if guest is None or request.path != CHANNEL_PATH or request.method != "GET":
            return _answer(404, f"wanted a WebSocket at {CHANNEL_PATH}")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            return _answer(401, "wanted a header Authorization: Bearer TOKEN")
        try:
            identity = await self._authenticate(token)
        except TokenRefused as refusal:
            self._refusals.note_token(refusal)
            return _answer(401, str(refusal))
        # Pings are answered by hand, for what aiohttp answers by itself has no pace.
        socket = web.WebSocketResponse(heartbeat=heartbeat, max_msg_size=MAX_FRAME_BYTES, timeout=2.0, compress=False, autoping=False)
        await socket.prepare(request)
        return Connection(socket, guest, identity, silence_seconds=2 * heartbeat)

    async def receive_hello(self, connection: Connection) -> Hello | None:
        """The first message, if it is a `hello` of the token's member; else the socket is closed with the reason."""
        socket, identity = connection.socket, connection.identity
        first = await socket.receive()
        while first.type in {WSMsgType.PING, WSMsgType.PONG}:
            await asyncio.sleep(0)
            first = await socket.receive()
        message = None
        if first.type is WSMsgType.TEXT:
            try:
                message = parse_from_agent(first.data)
            except ValidationError as error:
                self._refusals.note(identity.member_uid, "hello", f"a hello was refused: {describe(error)}")
        if not isinstance(message, Hello):
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"the first message must be hello")
            return None
        if not identity.may_say(message):
            self._refusals.note(identity.member_uid, "hello", "a hello was refused: it names another member than its token")
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"hello names another member than the token")
            return None
        return message


def _answer(status: int, words: str) -> web.Response:
    response = web.json_response({"error": words}, status=status)
    response.force_close()
    return response
