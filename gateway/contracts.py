"""The documents of the contracts: written beside the descriptor set when that is made, and served by the node
process. `python -m gateway.contracts` writes them."""

import importlib.util
import json
import pathlib
from typing import Any

from google.api import httpbody_pb2

import village
from gateway import asyncapi, openapi, published
from mesh import calls, errors
from village.mesh.v1 import contract_pb2

GENERATED = pathlib.Path(next(iter(village.__path__))).parent
_DOCUMENTS = GENERATED / "documents"
_PROTOS = pathlib.Path(__file__).resolve().parents[1] / "protos"
_PAGE = """<!doctype html>
<html lang="zh-CN">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{domain} · Village Mesh</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="document"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{url: "openapi.json", dom_id: "#document", docExpansion: "none", filter: true,
  deepLinking: true, persistAuthorization: false, validatorUrl: null, defaultModelsExpandDepth: 0}})
</script>
</html>
"""
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
"""What the page needs, all of it from the wheel that brings Swagger UI."""


def write(into: pathlib.Path = _DOCUMENTS) -> None:
    """Writes the documents of every domain that the contracts know."""
    descriptor_set = published.read(GENERATED / "village.binpb")
    terms = json.loads((_PROTOS / "terms.zh.json").read_text())
    into.mkdir(exist_ok=True)
    for domain in published.domains(descriptor_set):
        seen = _PROTOS / f"village/{domain}/v1/examples.json"
        examples = json.loads(seen.read_text()) if seen.exists() else {}
        for kind, of in (("openapi", openapi), ("asyncapi", asyncapi)):
            found = of.document(descriptor_set, domain, terms, examples)
            text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
            (into / f"{domain}.{kind}.json").write_text(text)


def _document(domain: str, kind: str) -> httpbody_pb2.HttpBody:
    path = _DOCUMENTS / f"{domain}.{kind}.json"
    if not path.exists():
        raise errors.NotFound(name=f"domain {domain}")
    return httpbody_pb2.HttpBody(content_type="application/json", data=path.read_bytes())


def get_openapi_document(
    request: contract_pb2.GetOpenapiDocumentRequest, _call: calls.Call
) -> httpbody_pb2.HttpBody:
    return _document(request.domain, "openapi")


def get_asyncapi_document(
    request: contract_pb2.GetAsyncapiDocumentRequest, _call: calls.Call
) -> httpbody_pb2.HttpBody:
    return _document(request.domain, "asyncapi")


def get_document_page(
    request: contract_pb2.GetDocumentPageRequest, _call: calls.Call
) -> httpbody_pb2.HttpBody:
    if not (_DOCUMENTS / f"{request.domain}.openapi.json").exists():
        raise errors.NotFound(name=f"domain {request.domain}")
    if not request.file:
        page = _PAGE.format(domain=request.domain).encode()
        return httpbody_pb2.HttpBody(content_type="text/html; charset=utf-8", data=page)
    found = importlib.util.find_spec("drf_spectacular_sidecar")
    if request.file not in _FILES or found is None or found.origin is None:
        raise errors.NotFound(name=f"file {request.file}")
    folder = pathlib.Path(found.origin).parent / "static/drf_spectacular_sidecar/swagger-ui-dist"
    return httpbody_pb2.HttpBody(content_type=_FILES[request.file], data=(folder / request.file).read_bytes())


HANDLERS: dict[str, Any] = {
    "GetOpenapiDocument": get_openapi_document,
    "GetAsyncapiDocument": get_asyncapi_document,
    "GetDocumentPage": get_document_page,
}

if __name__ == "__main__":
    write()
