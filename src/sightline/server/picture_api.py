"""The part of the API that shows, takes and removes pictures."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, File, Request, UploadFile
from fastapi import Query as Parameter
from starlette.responses import FileResponse, Response

from sightline.errors import ImageError
from sightline.images.formats import recognise
from sightline.server.answers import Problem, answer, problems_of
from sightline.server.files import SIDES, version
from sightline.server.incoming import add_uploads, remove_picture, suffix_of
from sightline.server.schemas import IndexName, Picture, QueryPicture, Removed, Uploaded
from sightline.server.state import ServedIndex, get_state
from sightline.text import printable

router = APIRouter(tags=["pictures"])
_MOST_FILES = 100
_FOREVER = "private, max-age=31536000, immutable"
_KINDS = {"jpeg": "image/jpeg", "ppm": "image/x-portable-anymap"}


@router.get("/api/images/{identity}", responses={200: {"model": Picture}})
def picture(request: Request, identity: str, index: IndexName = None) -> Response:
    """What is known of a picture."""
    state = get_state(request)
    served = state.index(index)
    return answer(request, served.shown(served.record(identity)))


@router.get(
    "/api/images/{identity}/file",
    responses={200: {"content": {"image/*": {}}, "description": "The file"}, **problems_of(410, 416)},
    response_class=Response,
)
def file(request: Request, identity: str, download: bool = False, index: IndexName = None) -> Response:
    """The picture's file as it is, with ranges; `download` for a name to save it under."""
    served = get_state(request).index(index)
    record = served.record(identity)
    path = served.roots.file(record.uri)
    try:
        with path.open("rb") as opened:
            kind, _ = recognise(opened.read(1024))
    except OSError as error:
        raise Problem(410, f"the picture's file cannot be read ({error.strerror}): check its permissions") from error
    except ImageError as error:
        raise Problem(410, f"the picture's file is not what was indexed: {error}") from error
    how = "attachment" if download else "inline"
    name = quote(str(record.payload.get("name") or path.name).encode("utf-8", "replace"), safe="")
    headers = {"Content-Disposition": f"{how}; filename*=UTF-8''{name}", "Cache-Control": "private, no-cache"}
    return FileResponse(path, headers=headers, media_type=_KINDS.get(kind, f"image/{kind}"))


@router.get(
    "/api/images/{identity}/thumbnail",
    responses={200: {"content": {"image/webp": {}}, "description": "The thumbnail"}, **problems_of(410)},
    response_class=Response,
)
async def thumbnail(
    request: Request,
    identity: str,
    size: Annotated[int, Parameter(ge=1, le=4096, description=f"one of {SIDES}, else the next larger")] = 320,
    v: Annotated[str, Parameter(max_length=40)] = "",
    index: IndexName = None,
) -> Response:
    """A small WebP, upright, its longer side `size`; an address with the content's version `v` never changes."""
    state = get_state(request)
    served = state.index(index)
    record = await state.reading.run(served.record, identity)  # the store may be on another machine
    side, current = next((side for side in SIDES if side >= size), SIDES[-1]), version(record)
    headers = {"ETag": f'"{current}-{side}"', "Cache-Control": _FOREVER if v == current else "private, no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    data = await state.reading.run(served.thumbnails.kept, record, side)
    if data is None:
        with state.metrics.stages.labels("thumbnail").time():
            data = await state.thumbing.run(served.thumbnails.made, record, side)
    return Response(data, 200, headers, "image/webp")


@router.post("/api/images", status_code=201, responses={201: {"model": Uploaded}, **problems_of(507)})
async def upload(
    request: Request,
    files: Annotated[list[UploadFile], File(description="one picture or many")],
    index: IndexName = None,
) -> Response:
    """Store and index pictures; when this answers they are on the disk and can be found."""
    state = get_state(request)
    served = state.index(index)
    folder = served.uploads
    if folder is None:
        raise Problem(
            403,
            "this index is not in a folder, so uploads have no place: start the server with --uploads FOLDER",
        )
    if len(files) > _MOST_FILES:
        raise Problem(413, f"{len(files)} files at once, expected at most {_MOST_FILES}: send them in several requests")
    with state.metrics.stages.labels("upload").time():
        checked, faults = list[tuple[bytes, str]](), list[dict[str, str]]()
        for number, part in enumerate(files, 1):
            data = await part.read()
            try:
                checked.append((data, await state.decoding.run(suffix_of, data, state.settings.max_megapixels)))
            except ImageError as error:
                name = printable(part.filename or "")[:100]
                faults.append({"where": f"file {number} of {len(files)}, {name!r}", "reason": str(error)})
        if faults:
            detail = "; ".join(f"{fault['where']}: {fault['reason']}" for fault in faults[:3])
            raise Problem(422, f"{detail}: nothing was stored, send the others again", errors=faults)
        records = await served.writing.run(add_uploads, checked, folder, served.index)
    served.forget_facets()
    return answer(request, {"pictures": [served.shown(record) for record in records]}, 201)


@router.delete("/api/images/{identity}", responses={200: {"model": Removed}})
async def delete(request: Request, identity: str, index: IndexName = None) -> Response:
    """Take a picture out of the index. Its file stays, unless it was uploaded here."""
    served = get_state(request).index(index)
    await served.writing.run(_remove, served, identity)
    served.forget_facets()
    return answer(request, {"removed": 1})


@router.post("/api/query-pictures", status_code=201, responses={201: {"model": QueryPicture}})
async def add_query_picture(request: Request, image: Annotated[UploadFile, File()]) -> Response:
    """Keep a small copy of a picture for a while, to search by; it does not enter any index."""
    state = get_state(request)
    data, limit = await image.read(), state.settings.max_megapixels
    identity, (width, height) = await state.decoding.run(state.query_pictures.add, data, limit)
    body: dict[str, Any] = {"id": identity, "width": width, "height": height}
    return answer(request, body | {"thumbnail": f"{state.settings.prefix}/api/query-pictures/{identity}"}, 201)


@router.get(
    "/api/query-pictures/{identity}",
    responses={200: {"content": {"image/webp": {}}, "description": "The copy"}},
    response_class=Response,
)
def query_picture(request: Request, identity: str) -> Response:
    """The small copy."""
    data = get_state(request).query_pictures.read(identity)
    return Response(data, 200, {"Cache-Control": _FOREVER}, "image/webp")


def _remove(served: ServedIndex, identity: str) -> None:
    remove_picture(served.record(identity), served.uploads, served.index)
