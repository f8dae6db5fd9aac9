"""Endpoints for the agents of hosts about images, and the objects of a store that cannot sign URLs."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import HostTokenOf
from wrenn.control.http import (
    DownloadResponse,
    address_of,
    body_of,
    refusals,
    service,
)
from wrenn.control.images.host_access import HostImages
from wrenn.control.images.served_objects import ServedObjects
from wrenn.control.images.types import (
    Chunks,
    ChunkUrls,
    DamagedChunks,
    ImageManifest,
    RemovedChunks,
    SignedUrl,
    UploadedImage,
)
from wrenn.control.objects import UrlSigner
from wrenn.protocol.api import HOST_OPENS_SEALED_HEADER
from wrenn.protocol.sealed_objects import ObjectKey

router = APIRouter(prefix="/{host_id}/images", tags=["hosts"])
store_router = APIRouter(tags=["store"])

HostImagesOf = Annotated[HostImages, service(HostImages)]
ObjectsOf = Annotated[ServedObjects, service(ServedObjects)]
SignerOf = Annotated[UrlSigner, service(UrlSigner)]
_NO_STORE: Final = {"Cache-Control": "no-store"}
_BINARY: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_OBJECT: Final[dict[int | str, dict[str, Any]]] = {200: {"description": "The object", "content": _BINARY}}
_OBJECT_IN: Final[dict[str, Any]] = {"requestBody": {"required": True, "content": _BINARY}}
_MANIFEST_IN: Final[dict[str, Any]] = {
    "requestBody": {
        "description": "The manifest (docs/design/store.md), at most 20 MiB",
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}
SignedUrlOf = Annotated[SignedUrl, Query()]
OpensOf = Annotated[str | None, Header(alias=HOST_OPENS_SEALED_HEADER, include_in_schema=False)]


def _key_field(key: ObjectKey | None) -> dict[str, dict[str, str]]:
    return {} if key is None else {"key": key.to_json()}


@router.get("/{image_id}", response_model=ImageManifest, responses=refusals(403, 404))
async def host_get_image(
    host_id: str, image_id: str, images: HostImagesOf, token: HostTokenOf, *, opens: OpensOf = None
) -> Response:
    """Where the agent of a host finds the manifest of an image: of any team, or for a team's own host of that team and the platform."""
    host = await images.caller(token, host_id, opens_sealed=opens is not None)
    url, digest, key = await images.manifest_url(host, image_id)
    content = {"id": image_id, "manifest_url": url, "manifest_digest": digest, **_key_field(key)}
    return JSONResponse(content, 200, _NO_STORE)


@router.post("/{image_id}/chunk-urls", response_model=ChunkUrls, responses=refusals(403, 404))
async def host_chunk_urls(
    host_id: str, image_id: str, body: Chunks, images: HostImagesOf, token: HostTokenOf
) -> Response:
    """URLs by which the agent of a host reads chunks of an image for 15 minutes."""
    host = await images.caller(token, host_id)
    return JSONResponse({"urls": await images.chunk_urls(host, image_id, body.digests)}, 200, _NO_STORE)


@router.post("/{image_id}/damaged-chunks", response_model=RemovedChunks, responses=refusals(403, 404))
async def host_report_damaged_chunks(
    host_id: str, image_id: str, body: DamagedChunks, images: HostImagesOf, token: HostTokenOf
) -> Response:
    """Chunks of an image that the agent of a host found to be damaged. Those that are get deleted, so the next upload writes them again."""
    host = await images.caller(token, host_id)
    return JSONResponse({"removed": await images.remove_damaged(host, image_id, body.digests)})


@router.post("/{image_id}/upload-urls", response_model=ChunkUrls, responses=refusals(403, 404, 413))
async def host_upload_urls(
    host_id: str,
    image_id: str,
    body: Chunks,
    images: HostImagesOf,
    token: HostTokenOf,
    *,
    opens: OpensOf = None,
) -> Response:
    """URLs by which the agent of a host writes those of these chunks that the store lacks, for 15 minutes.

    Only for the host that makes the image.
    """
    host = await images.caller(token, host_id, opens_sealed=opens is not None)
    urls, key = await images.upload_urls(host, image_id, body.digests)
    return JSONResponse({"urls": urls, **_key_field(key)}, 200, _NO_STORE)


@router.put(
    "/{image_id}/manifest",
    response_model=UploadedImage,
    responses=refusals(403, 404, 409, 413),
    openapi_extra=_MANIFEST_IN,
)
async def host_put_manifest(
    host_id: str, image_id: str, request: Request, images: HostImagesOf, token: HostTokenOf
) -> Response:
    """The manifest of an image whose chunks are all in the store. 409: some are not. Only for the host that makes the image."""
    host = await images.caller(token, host_id)
    stored_b = await images.put_manifest(host, image_id, body_of(request))
    return JSONResponse({"id": image_id, "stored_bytes": stored_b})


@store_router.get("/{key:path}", response_class=Response, responses={**refusals(403, 404, 429), **_OBJECT})
async def get_object(
    key: str, request: Request, url: SignedUrlOf, objects: ObjectsOf, signer: SignerOf
) -> Response:
    """An object of the store, by a signed URL that an agent got. Only where the store is a folder of the control plane."""
    signer.verify("GET", key, url.expires, url.signature)
    return DownloadResponse(objects.open(key, address=address_of(request.scope)), headers=_NO_STORE)


@store_router.put(
    "/{key:path}",
    status_code=204,
    responses=refusals(403, 413, 429, 507),
    openapi_extra=_OBJECT_IN,
)
async def put_object(
    key: str, request: Request, url: SignedUrlOf, objects: ObjectsOf, signer: SignerOf
) -> Response:
    """Write an object of the store, of at most 2 MiB, by a signed URL that an agent got: of a team's own host, whatever the store is."""
    signer.verify("PUT", key, url.expires, url.signature)
    await objects.write(key, body_of(request), address=address_of(request.scope))
    return Response(status_code=204)
