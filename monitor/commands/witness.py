"""`barograph audit witness`: serves a witness for other people's logs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from monitor.audit import keys
from monitor.audit.note import COSIGNATURE, LocalSigner, PublicKey
from monitor.audit.witness import MAX_BODY, Witness
from monitor.errors import BarographError
from monitor.http.serving import Servers


def application(witness: Witness) -> Starlette:
    async def add(request: Request) -> Response:
        body = b""
        async for some in request.stream():
            body += some
            if len(body) > MAX_BODY:
                return PlainTextResponse(f"expected at most {MAX_BODY} bytes\n", 413)
        try:
            answer = await asyncio.to_thread(witness.add, body)
        except (BarographError, OSError) as error:  # what it knows can't be read or kept: then it signs nothing
            return PlainTextResponse(f"the witness cannot keep its state: {error}\n", 500)
        return Response(answer.body, answer.status, {"content-type": answer.kind})

    return Starlette(routes=[Route("/add-checkpoint", add, methods=["POST"])])


def serve(folder: Path, name: str, listen: tuple[str, int], logs: Sequence[str]) -> None:
    """Until SIGINT or SIGTERM. The key is made at the first start, and its public half printed at each."""
    known = [PublicKey.parse(vkey) for vkey in logs]
    key = folder / "key"
    signer = LocalSigner.parse(keys.read(key)) if key.exists() else keys.new(key, name, COSIGNATURE)
    try:
        witness = Witness(folder, signer, known)
    except OSError as error:
        raise BarographError(f"{folder}: {error.strerror}; expected a folder that can be written") from None
    servers = Servers()
    servers.serve(application(witness), servers.bind("witness", listen))
    print(signer.key.vkey, flush=True)
    asyncio.run(servers.run())
    witness.close()
