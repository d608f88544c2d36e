"""The OpenAPI 3.1 document of a domain, from the descriptor set that Envoy uses: what it says of paths, names
and values is what the gateway does. Written when `gen/` is, and served by the node process."""

import re
from collections.abc import Iterator
from typing import Any

from buf.validate import validate_pb2
from google.api import annotations_pb2, resource_pb2

from gateway import VERSION, replies, schemas
from gateway.schemas import Contracts, Schema
from mesh import contract
from village.options.v1 import options_pb2

_JSON = "application/json"
_SCOPES = {
    options_pb2.SCOPE_PUBLIC: "anyone (公开)",
    options_pb2.SCOPE_OWN_REGION: "own region (本辖区)",
    options_pb2.SCOPE_SUBTREE: "own region and all inside it (本级及下级)",
    options_pb2.SCOPE_OWN_RECORDS: "own records (本人)",
    options_pb2.SCOPE_NODE: "nodes of the mesh (节点)",
}
_TITLES = {
    "traceability": "农业投入品与追溯", "habitat": "农村人居环境、水源与生态", "party": "智慧党建",
    "govservice": "政务服务与乡村治理", "emergency": "乡村应急", "culture": "乡村文化",
}  # fmt: skip
_REFUSALS: tuple[tuple[int, str, str], ...] = (
    (400, "INVALID_ARGUMENT, FAILED_PRECONDITION", "请求有误，或当前状态不允许"),
    (401, "UNAUTHENTICATED", "身份验证未通过"),
    (403, "PERMISSION_DENIED", "无权执行此操作"),
    (404, "NOT_FOUND", "记录不存在"),
    (409, "ABORTED, ALREADY_EXISTS", "记录已被他人修改，或已存在"),
    (413, "INVALID_ARGUMENT", f"请求体过大（超过 {replies.JSON_BODY_LIMIT} 字节）"),
    (431, "INVALID_ARGUMENT", "请求头过大"),
    (429, "RESOURCE_EXHAUSTED", "调用过多，请稍后重试"),
    (500, "INTERNAL, UNKNOWN", "系统内部错误"),
    (501, "UNIMPLEMENTED", "本节点的软件版本没有此方法"),
    (503, "UNAVAILABLE: certainly not done; the same request_id may be repeated", "服务暂不可用"),
    (504, "DEADLINE_EXCEEDED: it may have been done; the same request_id may be repeated", "请求超时"),
)
_ABOUT = """{title}: the domain `{domain}` of Village Mesh, as this node's gateway speaks it in JSON.

Every method is also gRPC on the same port, and describes itself there by reflection. Every call but the
public ones carries `Authorization: Bearer TOKEN` (a JWT of an issuer that the node trusts). A field that the
contract does not know is dropped from a body without a word, and refused in a URL. Times are RFC 3339, 64-bit
integers strings. A change that carries `requestId` may be repeated: the same id with the same request answers
the first answer again for 24 hours. `etag` refuses with 409 when the record has moved since it was read.

除公开方法外，每次调用都须携带令牌（`Authorization: Bearer TOKEN`）。请求体中契约没有的字段会被忽略，网址
中的则被拒绝。时间为 RFC 3339 格式，64 位整数写作字符串。修改类调用带 `requestId` 时可放心重试：同一编号、
同一请求在 24 小时内得到同一答复。带 `etag` 时，若记录在读取后已被修改，则以 409 拒绝。"""


def document(descriptor_set: bytes, domain: str, terms: dict[str, str], examples: dict[str, Any]) -> Schema:
    """The document of a domain. `terms`: Chinese names of fields by their names; `examples`: requests and
    answers by method, as they went through a gateway."""
    return _Writer(Contracts.of(descriptor_set), domain, terms, examples).document()


class _Writer:
    def __init__(
        self, contracts: Contracts, domain: str, terms: dict[str, str], examples: dict[str, Any]
    ) -> None:
        self._contracts, self._domain, self._examples = contracts, domain, examples
        self._package = f"village.{domain}.v1"
        self._schemas = schemas.Schemas(contracts, self._package, terms)
        self._singular = {
            (rule := d.proto.options.Extensions[resource_pb2.resource]).plural: rule.singular
            for d in contracts.types.values()
            if d.is_message
        } | {"regions": "region"}

    def document(self) -> Schema:
        paths: dict[str, Any] = {}
        tags: list[Schema] = []
        for file in self._contracts.files:
            if file.package != self._package:
                continue
            said = schemas.comments(file)
            for i, service in enumerate(file.service):
                tags.append({"name": service.name, "description": said.get((6, i), "")})
                for j, method in enumerate(service.method):
                    for n, (verb, path, operation) in enumerate(
                        self._operations(service, method, said.get((6, i, 2, j), ""))
                    ):
                        operation["operationId"] = method.name + (f"_{n}" if n else "")
                        paths.setdefault(path, {})[verb] = operation
        title = _TITLES.get(self._domain, self._domain)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": f"{title} ({self._domain})",
                "version": VERSION,
                "description": _ABOUT.format(title=title, domain=self._domain),
            },
            "servers": [{"url": "/"}],
            "security": [{"token": []}],
            "tags": tags,
            "paths": paths,
            "components": self._components(),
        }

    def _components(self) -> Schema:
        reasons = self._reasons()
        status = self._schemas.ref(".google.rpc.Status")["$ref"].rpartition("/")[2]
        return {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "令牌"}
            },
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": {
                f"Refused{code}": {
                    "description": f"{codes}. {chinese}。",
                    "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{status}"}}},
                }
                for code, codes, chinese in _REFUSALS
            },
            "schemas": {
                **dict(sorted(self._schemas.components.items())),
                "ErrorReason": {
                    "type": "string",
                    "title": "拒绝原因",
                    "description": "`reason` of the `google.rpc.ErrorInfo` among a refusal's details.\n\n"
                    + "\n".join(f"- `{reason}`: {text}" for reason, text in reasons.items()),
                    "enum": list(reasons),
                },
            },
        }

    def _reasons(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for package in (self._package, "village.mesh.v1"):
            of = self._contracts.types[f".{package}.ErrorReason"]
            for value, text in zip(of.proto.value[1:], of.parts[1:], strict=True):
                found[value.name.removeprefix("ERROR_REASON_")] = text.partition("\n")[0]
        return found

    def _operations(self, service: Any, method: Any, comment: str) -> Iterator[tuple[str, str, Schema]]:
        rule = method.options.Extensions[annotations_pb2.http]
        for bound in (rule, *rule.additional_bindings):
            verb = bound.WhichOneof("pattern")
            if verb is None:
                continue
            path, parameters, taken = self._path(getattr(bound, verb), method.input_type)
            operation = self._described(service, method, comment)
            body = self._body(bound.body, method, partial=verb == "patch")
            parameters += self._query(method.input_type, bound.body, taken) if bound.body != "*" else []
            parameters += [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS]
            example = self._examples.get(method.name)
            if example:
                _fill(parameters, body, example)
            operation["parameters"] = parameters
            if body:
                operation["requestBody"] = body
            operation["responses"] = self._responses(method, comment, example, bool(body))
            yield verb, path, operation

    def _path(self, template: str, request: str) -> tuple[str, list[Schema], set[str]]:
        """The URL with a parameter for each wildcard, those parameters, and the fields that are in the
        URL."""
        fields = {f.name: (f, text) for f, text in self._contracts.fields(request)}
        parameters: list[Schema] = []
        taken: set[str] = set()

        def put(match: re.Match[str]) -> str:
            name, pattern = match[1], match[2] or "*"
            taken.add(name)
            rule = self._pattern(request, name)
            parts, ruled = pattern.split("/"), rule.strip("^$").split("/")
            out: list[str] = []
            for i, part in enumerate(parts):
                if part != "*":
                    out.append(part)
                    continue
                own = self._singular.get(out[-1], out[-1]) if out else match[1]
                schema: Schema = {"type": "string", "minLength": 1}
                if len(ruled) == len(parts):
                    schema["pattern"] = f"^{ruled[i]}$"
                text = fields[name][1] if name in fields and not out else ""
                parameters.append(
                    {"name": own, "in": "path", "required": True, "schema": schema,
                     **({"description": text} if text else {})}
                )  # fmt: skip
                out.append(f"{{{own}}}")
            return "/".join(out)

        return re.sub(r"\{([\w.]+)(?:=([^}]*))?\}", put, template), parameters, taken

    def _pattern(self, request: str, path: str) -> str:
        """The pattern that a field of a request must have, by its path as in `device.name`; or of its
        resource."""
        first, _, rest = path.partition(".")
        field = next(f for f, _ in self._contracts.fields(request) if f.name == first)
        if not rest:
            return str(field.options.Extensions[validate_pb2.field].string.pattern)
        named = self._contracts.types[field.type_name].proto.options.Extensions[resource_pb2.resource]
        return re.sub(r"\{[^}]+\}", "[^/]+", named.pattern[0]) if named.pattern else ""

    def _body(self, body: str, method: Any, *, partial: bool) -> Schema | None:
        if not body:
            return None
        if body == "*":
            in_url = "the fields that stand in the URL may be left out"
            schema = {**self._without_url(method), "description": f"`{method.name}`: {in_url}."}
            if method.client_streaming:
                schema = {"type": "array", "items": schema, "minItems": 1}
            return {"required": not _all_optional(schema), "content": {_JSON: {"schema": schema}}}
        field, text = next((f, t) for f, t in self._contracts.fields(method.input_type) if f.name == body)
        if field.type_name == schemas.HTTP_BODY:
            return {"required": True, "description": text, "content": {"*/*": {"schema": {}}}}
        schema = self._schemas.ref(field.type_name, "" if partial else "New")
        return {"required": True, "description": text, "content": {_JSON: {"schema": schema}}}

    def _without_url(self, method: Any) -> Schema:
        """The request less what its URL says."""
        rule = method.options.Extensions[annotations_pb2.http]
        template = getattr(rule, rule.WhichOneof("pattern"))
        taken = {name.partition(".")[0] for name in re.findall(r"\{([\w.]+)", template)}
        return self._schemas.message(method.input_type, without=taken)

    def _query(self, request: str, body: str, taken: set[str], prefix: str = "") -> list[Schema]:
        found: list[Schema] = []
        for field, text in self._contracts.fields(request):
            if field.name == body or f"{prefix}{field.name}" in taken:
                continue
            if field.type_name and self._contracts.types[field.type_name].full_name.startswith(
                ("village.", "google.type.")
            ) and field.type == schemas.FieldProto.TYPE_MESSAGE:  # fmt: skip
                found += self._query(field.type_name, "", taken, f"{prefix}{field.json_name}.")
                continue
            schema = self._schemas.field(field, text)
            description = schema.pop("description", "")
            found.append(
                {"name": f"{prefix}{field.json_name}", "in": "query", "schema": schema,
                 "required": not prefix and schemas.enforced(field),
                 **({"description": description} if description else {})}
            )  # fmt: skip
        return found

    def _described(self, service: Any, method: Any, comment: str) -> Schema:
        access = contract.stated(method.options, service.options)
        first, _, rest = comment.partition("\n")
        chinese = schemas.chinese(first)
        summary = re.sub(r"\s*\([^()]*[\u4e00-\u9fff][^()]*\)", "", first.split(". ")[0]).rstrip(".")
        callers = [
            f"- {'、'.join(_role(role) for role in rule.roles) or '—'}: {_SCOPES[rule.scope]}"
            + (", of the handling unit (承办单位)" if rule.handling_unit else "")
            + (f", other than {', '.join(rule.differs_from)} (回避)" if rule.differs_from else "")
            for rule in access.allow
        ]
        more = [
            "What it answers is unmasked and audited (披露)." if access.reveals else "",
            "May be taken for an owner that cannot be reached (延迟送达)." if access.deferrable else "",
        ]
        text = "\n\n".join(
            filter(None, [first, rest.strip(), *more, "Callers (调用者):\n\n" + "\n".join(callers)])
        )
        public = any(rule.scope == options_pb2.SCOPE_PUBLIC for rule in access.allow)
        return {
            "tags": [service.name],
            "summary": f"{chinese} · {summary}" if chinese else summary,
            "description": text,
            **({"security": [{}, {"token": []}]} if public else {}),
            "x-grpc": f"{self._package}.{service.name}/{method.name}",
        }

    def _responses(self, method: Any, comment: str, example: Any, has_body: bool) -> Schema:
        if method.output_type == schemas.HTTP_BODY:
            content: Schema = {"*/*": {"schema": {}}}
        else:
            content = {_JSON: {"schema": self._schemas.ref(method.output_type)}}
            if method.server_streaming:
                content = {"application/x-ndjson": content[_JSON]}
            elif example and "answer" in example:
                content[_JSON]["examples"] = {"seen": {"value": example["answer"]}}
        said = re.search(r"Refusals: (.*)", comment, re.DOTALL)
        refused: Schema = {
            str(code): {"$ref": f"#/components/responses/Refused{code}"}
            for code, _, _ in _REFUSALS
            if code != 413 or has_body
        }
        if said and re.search(r"\b[A-Z]+_[A-Z_]+\b", said[1]):
            plain = f"{_REFUSALS[0][1]}. {_REFUSALS[0][2]}。 {said[1]}"
            status = {"$ref": f"#/components/schemas/{self._schemas.key('.google.rpc.Status')}"}
            refused["400"] = {"description": plain, "content": {_JSON: {"schema": status}}}
        return {
            "200": {
                "description": "完成",
                "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS},
                "content": content,
            },
            **refused,
        }


_PARAMETERS: Schema = {
    "x-village-read": {
        "name": "x-village-read", "in": "header", "required": False,
        "schema": {"type": "string", "enum": ["owner", "replica"]},
        "description": "Asks the owner or nobody, or the province's copy (读主库或副本).",
    },
    "x-village-acting-for": {
        "name": "x-village-acting-for", "in": "header", "required": False, "schema": {"type": "string"},
        "description": "Subject of the official whom the caller stands in for (AB 岗).",
    },
}  # fmt: skip
_HEADERS: Schema = {
    "x-village-served-by": {
        "schema": {"type": "string"}, "description": "Region of the node that answered (应答节点).",
    },
    "x-village-as-of": {
        "schema": {"type": "string", "format": "date-time"},
        "description": "The answer holds everything up to this moment (数据截至).",
    },
    "x-village-delivery": {
        "schema": {"type": "string"},
        "description": "Name of the delivery, where the call was taken for an owner out of reach (延迟送达).",
    },
}  # fmt: skip


def _all_optional(schema: Schema) -> bool:
    return not schema.get("required") and not schema.get("allOf") and schema.get("type") == "object"


def _role(number: int) -> str:
    value = options_pb2.Role.DESCRIPTOR.values_by_number[number]
    name_zh = value.GetOptions().Extensions[options_pb2.role].name_zh
    return f"{value.name.removeprefix('ROLE_')} {name_zh}"


def _fill(parameters: list[Schema], body: Schema | None, example: Any) -> None:
    """Puts what was sent beside what it stands for."""
    sent = {**example.get("path", {}), **example.get("query", {})}
    for parameter in parameters:
        if parameter.get("name") in sent:
            parameter["example"] = sent[parameter["name"]]
    if body and "body" in example and _JSON in body["content"]:
        body["content"][_JSON]["examples"] = {"seen": {"value": example["body"]}}
