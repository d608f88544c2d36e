"""The rules that are checked: what each demands, where it stands, how to mend what breaks it. One table,
which findings quote and docs/conformance.md repeats; a test compares the two."""

import dataclasses

DECLARED, READS, WRITES, EVENTS = "declared", "reads", "writes", "events"
"""What a rule needs: the contract alone, calls that read, calls that write, or a broker to listen at."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    needs: str
    demands: str
    stands: str
    mend: str


OPTIONS = "protos/village/options/v1/options.proto"
CALLERS = "docs/integrators.md"

RULES = (
    # the contract, as reflection shows it
    Rule(
        "reflection", DECLARED,
        "Reflection (v1 or v1alpha) lists the domain's services and gives every file that they "
        "are made of.",
        f"{CALLERS}, gRPC",
        "Serve grpc.reflection with all files of village.<domain>.v1.",
    ),
    Rule(
        "package", DECLARED,
        "The package is village.<domain>.v1, its files lie in village/<domain>/v1/, its "
        "resources' types are <domain>.village/<Message>.",
        "AIP-191, AIP-123",
        "Name package, file and type so.",
    ),
    Rule(
        "resource", DECLARED,
        "A resource has `string name = 1` with field behavior IDENTIFIER, and states type, "
        "singular, plural and the pattern regions/{region}/<plural>/{id}.",
        "AIP-122, AIP-123, AIP-203",
        "Correct google.api.resource, or the field `name`, of the message.",
    ),
    Rule(
        "rises", DECLARED,
        "Every resource states what of it may leave its owner.",
        f"{OPTIONS}, Rises",
        "Add (village.options.v1.resource).rises.",
    ),
    Rule(
        "access", DECLARED,
        "Every method states who may call it, itself or by its service: each way has a scope, and "
        "roles unless it is for the public or for nodes; never the role SYS.",
        f"{OPTIONS}, Access",
        "Add (village.options.v1.access).",
    ),
    Rule(
        "url", DECLARED,
        "Every method has an HTTP rule whose path is /<domain>/v1/ and a resource name, with a "
        "verb behind a colon, and is GET exactly where the method only reads; the path's "
        "variables are fields of the request.",
        f"{CALLERS}, JSON; AIP-127",
        "Correct the method's google.api.http.",
    ),
    Rule(
        "reads", DECLARED,
        "Get, List and BatchGet have idempotency_level NO_SIDE_EFFECTS; Create, Update and Delete "
        "have not.",
        "AIP-131, AIP-132",
        "Set the method's idempotency_level.",
    ),
    Rule(
        "pages", DECLARED,
        "A List takes parent, page_size and page_token, and answers the records first and "
        "next_page_token.",
        "AIP-132, AIP-158",
        "Add the field.",
    ),
    Rule(
        "request-id-field", DECLARED,
        "A method that changes something takes request_id, one that reads does not; what takes a "
        "stream or reveals is free of it, and calls of nodes are.",
        "AIP-155",
        "Add `string request_id` to the request.",
    ),
    Rule(
        "etag-field", DECLARED,
        "A method that changes a named record takes its etag, and the record has an OUTPUT_ONLY "
        "etag.",
        "AIP-154",
        "Add `string etag` to the request and the resource.",
    ),
    Rule(
        "behavior", DECLARED,
        "Every field of a request states its google.api.field_behavior.",
        "AIP-203",
        "Add the annotation: REQUIRED, OPTIONAL or IDENTIFIER.",
    ),
    Rule(
        "state", DECLARED,
        "A resource's field of an enum State is OUTPUT_ONLY: verbs change it.",
        "AIP-216",
        "Mark the field OUTPUT_ONLY and give the change a method of its own.",
    ),
    Rule(
        "loose-fields", DECLARED,
        "No resource and no event holds Struct, Value, Any or a map, at any depth.",
        "docs/adr/0001-contracts-carry-the-rules.md",
        "State the fields.",
    ),
    Rule(
        "events", DECLARED,
        "An event's first field is the resource it is about, it states its verb, and no other "
        "event of the resource has the same.",
        f"{OPTIONS}, EventRule",
        "Correct the message's fields or its (village.options.v1.event).",
    ),
    Rule(
        "reasons", DECLARED,
        "The values of the package's enum ErrorReason begin with ERROR_REASON_.",
        "AIP-193",
        "Rename the value.",
    ),
    Rule(
        "comments", DECLARED,
        "Every element is commented, as far as reflection tells comments.",
        "AIP-192",
        "Write the comment.",
    ),
    # calls that read, or that are refused before they could change anything
    Rule(
        "token", READS,
        "A call without a token is UNAUTHENTICATED, and so is one with a token that is none; "
        "methods for the public alone need none.",
        f"{CALLERS}, A token",
        "Ask who calls before anything else.",
    ),
    Rule(
        "role", READS,
        "A caller none of whose roles the contract lists gets PERMISSION_DENIED.",
        f"{OPTIONS}, Access",
        "Check the roles that the method's contract lists.",
    ),
    Rule(
        "permission-first", READS,
        "PERMISSION_DENIED comes before existence: who may not read gets it for a record that is "
        "not there, too.",
        f"{CALLERS}, Refusals",
        "Decide on the permission before the record is looked up.",
    ),
    Rule(
        "region", READS,
        "What lies outside the caller's region gets PERMISSION_DENIED.",
        f"{CALLERS}, A token",
        "Compare the region in the name or parent with the token's.",
    ),
    Rule(
        "bytes", READS,
        "Bytes that are no such message get INVALID_ARGUMENT, never INTERNAL or UNKNOWN.",
        f"{CALLERS}, Refusals",
        "Decode where a refusal can still be given.",
    ),
    Rule(
        "fault", READS,
        "No good request gets INTERNAL, UNKNOWN or UNIMPLEMENTED.",
        f"{CALLERS}, Refusals",
        "Look into the service's log: this is a fault of it.",
    ),
    Rule(
        "validation", READS,
        "A field that breaks its buf.validate rule gets INVALID_ARGUMENT with a BadRequest that "
        "names its path.",
        f"{CALLERS}, Refusals",
        "Validate requests against the contract (protovalidate).",
    ),
    Rule(
        "error-info", READS,
        "A refusal holds ErrorInfo with a reason and a domain. (A gateway's own for bad tokens, "
        "for what is away and for too many calls need not.)",
        f"{CALLERS}, Refusals; AIP-193",
        "Send google.rpc.Status with its details in grpc-status-details-bin.",
    ),
    Rule(
        "reason", READS,
        "The reason is of the domain's ErrorReason with the domain <domain>.village, or of "
        "village.mesh.v1 with mesh.village.",
        f"{CALLERS}, Refusals",
        "Add the reason to the enum, or send the one that it lists.",
    ),
    Rule(
        "details", READS,
        "INVALID_ARGUMENT holds BadRequest, NOT_FOUND and ALREADY_EXISTS ResourceInfo, "
        "FAILED_PRECONDITION PreconditionFailure, UNAVAILABLE RetryInfo.",
        f"{CALLERS}, Refusals",
        "Add the detail.",
    ),
    Rule(
        "chinese", READS,
        "A refusal holds a LocalizedMessage in Chinese.",
        f"{CALLERS}, Refusals",
        "Add google.rpc.LocalizedMessage with locale zh-CN.",
    ),
    Rule(
        "not-found", READS,
        "A record that is not there gets NOT_FOUND from whoever may read it.",
        f"{CALLERS}, Refusals",
        "Answer NOT_FOUND.",
    ),
    Rule(
        "names", READS,
        "The name of every record in an answer has its resource's pattern.",
        "AIP-122",
        "Make names by the pattern of google.api.resource.",
    ),
    Rule(
        "masked", READS,
        "Personal fields in answers are masked as their kind demands, unless the method reveals.",
        f"{OPTIONS}, Personal",
        "Mask what the field's (village.options.v1.field).personal says.",
    ),
    Rule(
        "page-size", READS,
        "A negative page_size is refused by its name; one that is too large means the largest.",
        "AIP-158",
        "Refuse the one with INVALID_ARGUMENT, cap the other.",
    ),
    Rule(
        "page-token", READS,
        "A page_token that nobody gave is refused by its name.",
        "AIP-158",
        "Refuse it with INVALID_ARGUMENT and a BadRequest for page_token.",
    ),
    Rule(
        "page-binding", READS,
        "A page_token is refused with another query than the one it was given for.",
        "AIP-158",
        "Bind the token to everything of the request but page_size.",
    ),
    Rule(
        "page-walk", READS,
        "Pages walk the whole list once, in one order: nothing is missing and nothing comes "
        "twice.",
        "AIP-158",
        "End the order with the name, and go on behind the last record of the page before.",
    ),
    Rule(
        "filter", READS,
        "A filter that cannot be read, or asks for a field that is none, is refused by its name.",
        "AIP-160",
        "Refuse it with INVALID_ARGUMENT and a BadRequest for filter.",
    ),
    Rule(
        "order-by", READS,
        "An order_by of a field that is none is refused by its name.",
        "AIP-132",
        "Refuse it with INVALID_ARGUMENT and a BadRequest for order_by.",
    ),
    Rule(
        "told", READS,
        "Where x-village-served-by and x-village-as-of are told, they are a region and an RFC "
        "3339 time that has passed.",
        f"{CALLERS}, Several nodes",
        "Correct the header of the answer.",
    ),
    # calls that write
    Rule(
        "create", WRITES,
        "What was created is answered, lies under its parent, and can be read again.",
        "AIP-133",
        "Answer the record as it is kept.",
    ),
    Rule(
        "output-only", WRITES,
        "Fields that are OUTPUT_ONLY, and the name, are ignored when a caller sends them.",
        "AIP-203",
        "Clear them in what a caller sent.",
    ),
    Rule(
        "request-id", WRITES,
        "The same request with the same request_id gets the first answer again, and makes no "
        "second record.",
        "AIP-155",
        "Keep the answer by caller and request_id, in the commit that writes the record.",
    ),
    Rule(
        "request-id-reuse", WRITES,
        "The same request_id with another request is refused, by the name of the field.",
        f"{CALLERS}, Refusals",
        "Keep a digest of the request beside the answer, and compare.",
    ),
    Rule(
        "etag", WRITES,
        "An etag that is not the record's gets ABORTED, and nothing is changed.",
        "AIP-154",
        "Compare the etag in the write.",
    ),
    # what is announced
    Rule(
        "event-sent", EVENTS,
        "A record that was created, and may rise, is announced within ten seconds.",
        f"{CALLERS}, Events",
        "Publish what the outbox holds.",
    ),
    Rule(
        "event-subject", EVENTS,
        "The subject is village.<pp>.<cc>.<dd>.<domain>.<resource>.<verb>, with the region of the "
        "record's name and the verb of the contract.",
        f"{CALLERS}, Events",
        "Make the subject from the contract.",
    ),
    Rule(
        "event-headers", EVENTS,
        "The headers are CloudEvents 1.0 in binary mode: ce-specversion, ce-id that is a UUID and "
        "Nats-Msg-Id too, ce-type, ce-source, ce-subject, ce-time, ce-datacontenttype; "
        "traceparent, where there is one, is a trace.",
        f"{CALLERS}, Events",
        "Correct the header.",
    ),
    Rule(
        "event-sequence", EVENTS,
        "ce-sequence is epoch.incarnation.number, and the numbers of a source rise by one.",
        f"{CALLERS}, Events",
        "Number events in the order of commits, one relay at a time.",
    ),
    Rule(
        "event-payload", EVENTS,
        "The payload is the message that ce-type names, an event of the contract, and its "
        "record's name is ce-subject.",
        f"{CALLERS}, Events",
        "Send the event's message, with the record as it stands.",
    ),
    Rule(
        "event-personal", EVENTS,
        "Personal fields in events are masked, and free text is absent unless the record rises "
        "FULL; of what may not rise there is only name and etag.",
        f"{OPTIONS}, Rises",
        "Mask the record before it is put in the outbox.",
    ),
)  # fmt: skip

BY_NAME = {rule.name: rule for rule in RULES}
