"""`python -m cli.scaffold DOMAIN AREA RECORD…`: prints the proto of a new area with what every record has:
its standard methods, their requests, its events, its verbs. What a record holds is written by hand then.

A RECORD is `Sample|samples|a water sample (水样)`, and with a life cycle
`Trip|trips|a trip (清运车次)|plan:planned:计划,start:started:出车`, whose first verb creates it."""

import dataclasses
import sys

IMPORTS = (
    "buf/validate/validate.proto",
    "google/api/annotations.proto",
    "google/api/field_behavior.proto",
    "google/api/resource.proto",
    "google/protobuf/field_mask.proto",
    "village/options/v1/options.proto",
    "village/type/v1/step.proto",
)
REQUEST_ID = """  // Makes repeating safe: a UUID of the caller's choosing.
  string request_id = {n} [
    (google.api.field_behavior) = OPTIONAL,
    (buf.validate.field).ignore = IGNORE_IF_ZERO_VALUE,
    (buf.validate.field).string.uuid = true
  ];
"""
ETAG = """  // `etag` of the record as it was read; ABORTED when it has moved since.
  string etag = {n} [(google.api.field_behavior) = OPTIONAL, (buf.validate.field).string.max_len = 20];
"""


@dataclasses.dataclass(frozen=True)
class Record:
    """One kind of record of an area."""

    domain: str
    name: str
    plural: str
    title: str
    verbs: tuple[tuple[str, str, str], ...] = ()

    @property
    def field(self) -> str:
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in self.name).lstrip("_")

    @property
    def fields(self) -> str:
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in self.plural)

    @property
    def many(self) -> str:
        return self.plural[0].upper() + self.plural[1:]

    @property
    def bare(self) -> str:
        """The title without its Chinese, as in "a bin"."""
        return self.title.partition(" (")[0]

    @property
    def zh(self) -> str:
        return self.title.partition("(")[2].rstrip(")")

    @property
    def creates(self) -> tuple[str, str, str]:
        """(verb, participle, Chinese) of the method that creates it."""
        return self.verbs[0] if self.verbs else ("create", "created", "登记")

    def method(self, verb: str) -> str:
        return "".join(part.capitalize() for part in verb.split("_")) + self.name

    def path(self, what: str) -> str:
        return f"/{self.domain}/v1/{{{what}=regions/*{f'/{self.plural}/*' if what == 'name' else ''}}}"


def parse(domain: str, text: str) -> Record:
    """A RECORD of the command line."""
    name, plural, title, *more = text.split("|")
    verbs = tuple(tuple(verb.split(":")) for verb in more[0].split(",")) if more else ()
    return Record(domain, name, plural, title, verbs)  # type: ignore[arg-type]


def methods(r: Record) -> str:
    """The methods of a record."""
    verb, _, zh = r.creates
    text = f"""
  // {verb.capitalize()}s {r.bare} ({zh}).
  rpc {r.method(verb)}({r.method(verb)}Request) returns ({r.name}) {{
    option (google.api.http) = {{post: "{r.path("parent")}/{r.plural}" body: "{r.field}"}};
  }}

  // Returns {r.title}.
  rpc Get{r.name}(Get{r.name}Request) returns ({r.name}) {{
    option (google.api.http) = {{get: "{r.path("name")}"}};
    option idempotency_level = NO_SIDE_EFFECTS;
  }}

  // Lists the {r.fields.replace("_", " ")} ({r.zh}) of a region and what lies inside it.
  rpc List{r.many}(List{r.many}Request) returns (List{r.many}Response) {{
    option (google.api.http) = {{get: "{r.path("parent")}/{r.plural}"}};
    option idempotency_level = NO_SIDE_EFFECTS;
  }}
"""
    if not r.verbs:
        text += f"""
  // Changes {r.title}.
  rpc Update{r.name}(Update{r.name}Request) returns ({r.name}) {{
    option (google.api.http) = {{patch: "{r.path("name")}" body: "{r.field}"}};
  }}
"""
    for verb, _, zh in r.verbs[1:]:
        words = verb.split("_")
        custom = words[0] + "".join(word.capitalize() for word in words[1:])
        text += f"""
  // {" ".join(words).capitalize()}s {r.bare} ({zh}).
  rpc {r.method(verb)}({r.method(verb)}Request) returns ({r.name}) {{
    option (google.api.http) = {{post: "{r.path("name")}:{custom}" body: "*"}};
  }}
"""
    return text


def resource(r: Record) -> str:
    """The record itself, still empty."""
    state = ""
    if r.verbs:
        state = f"""
  // Says how far {r.bare} is.
  enum State {{
    // Not stated.
    STATE_UNSPECIFIED = 0;
  }}
"""
    kept = (
        """  // How far it is.
  State state = 2 [(google.api.field_behavior) = OUTPUT_ONLY, (village.options.v1.field).filterable = true];
"""
        if r.verbs
        else ""
    )
    return f"""
// Describes {r.title}.
message {r.name} {{
  option (google.api.resource) = {{
    type: "{r.domain}.village/{r.name}"
    pattern: "regions/{{region}}/{r.plural}/{{{r.field}}}"
    singular: "{r.name[0].lower()}{r.name[1:]}"
    plural: "{r.plural}"
  }};
  option (village.options.v1.resource) = {{rises: RISES_FULL}};
{state}
  // Name: `regions/{{region}}/{r.plural}/{{id}}`.
  string name = 1 [(google.api.field_behavior) = IDENTIFIER];
{kept}  // Version, for `etag`.
  string etag = 99 [(google.api.field_behavior) = OUTPUT_ONLY];
}}
"""


def requests(r: Record) -> str:
    """The requests and answers of a record's methods."""
    verb, kind = r.creates[0], f"{r.domain}.village/{r.name}"
    parent = f"""  // The region: `regions/{{region}}`.
  string parent = 1 [
    (google.api.field_behavior) = REQUIRED,
    (google.api.resource_reference).child_type = "{kind}",
    (buf.validate.field).string.pattern = "^regions/[1-9][0-9]{{5}}$"
  ];
"""
    name = f"""  // Its name.
  string name = 1 [
    (google.api.field_behavior) = REQUIRED,
    (google.api.resource_reference).type = "{kind}",
    (buf.validate.field).string.pattern = "^regions/[1-9][0-9]{{5}}/{r.plural}/[a-z0-9][a-z0-9-]{{0,59}}$"
  ];
"""
    given = f"""  // What is known of it. Fields that the service sets are ignored.
  {r.name} {r.field} = 2 [(google.api.field_behavior) = REQUIRED, (buf.validate.field).required = true];
"""
    wanted = f"""  // The last part of its name: small letters, digits, hyphens; by the service when empty.
  string {r.field}_id = 3 [
    (google.api.field_behavior) = OPTIONAL,
    (buf.validate.field).ignore = IGNORE_IF_ZERO_VALUE,
    (buf.validate.field).string.pattern = "^[a-z0-9][a-z0-9-]{{0,59}}$"
  ];
"""
    listed = parent.replace("The region", "The region whose subtree is listed")
    text = f"""
// Asks to {verb.replace("_", " ")} {r.bare}.
message {r.method(verb)}Request {{
{parent}{given}{wanted}{REQUEST_ID.format(n=4)}}}

// Asks for {r.bare}.
message Get{r.name}Request {{
{name}}}

// Asks for a page of {r.fields.replace("_", " ")}.
message List{r.many}Request {{
{listed}  // How many at most; 0 means 50, more than 500 means 500.
  int32 page_size = 2 [(google.api.field_behavior) = OPTIONAL, (buf.validate.field).int32.gte = 0];
  // `next_page_token` of the page before.
  string page_token = 3 [(google.api.field_behavior) = OPTIONAL, (buf.validate.field).string.max_len = 2000];
  // Which (AIP-160), over the fields marked filterable.
  string filter = 4 [(google.api.field_behavior) = OPTIONAL, (buf.validate.field).string.max_len = 2000];
  // In what order (AIP-132), over the fields marked filterable.
  string order_by = 5 [(google.api.field_behavior) = OPTIONAL, (buf.validate.field).string.max_len = 200];
}}

// Returns a page of {r.fields.replace("_", " ")}.
message List{r.many}Response {{
  // The {r.fields.replace("_", " ")}.
  repeated {r.name} {r.fields} = 1;
  // Asks for the next page; empty on the last.
  string next_page_token = 2;
}}
"""
    if not r.verbs:
        text += f"""
// Asks to change {r.bare}.
message Update{r.name}Request {{
{name}{given}  // Which fields (AIP-134); those that are set when empty, `*` for all.
  google.protobuf.FieldMask update_mask = 3 [(google.api.field_behavior) = OPTIONAL];
{ETAG.format(n=4)}{REQUEST_ID.format(n=5)}}}
"""
    for verb, _, _ in r.verbs[1:]:
        text += f"""
// Asks to {verb.replace("_", " ")} {r.bare}.
message {r.method(verb)}Request {{
{name}  // Why, or what is to be said of it.
  string reason = 2 [(google.api.field_behavior) = OPTIONAL, (buf.validate.field).string.max_len = 500];
{ETAG.format(n=3)}{REQUEST_ID.format(n=4)}}}
"""
    return text


def events(r: Record) -> str:
    """The facts that are announced of a record."""
    verbs = r.verbs or (("create", "created", "登记"), ("change", "changed", "变更"))
    text = ""
    for _, done, zh in verbs:
        step = "  // The step.\n  village.type.v1.Step step = 2;\n" if r.verbs else ""
        text += f"""
// Says that {r.bare} was {done.replace("_", " ")} ({zh}).
message {r.name}{"".join(part.capitalize() for part in done.split("_"))} {{
  option (village.options.v1.event) = {{verb: "{done}"}};
  // The record after it.
  {r.name} {r.field} = 1;
{step}}}
"""
    return text


def scaffold(domain: str, area: str, records: list[Record]) -> str:
    """The whole file."""
    imports = "\n".join(f'import "{path}";' for path in IMPORTS)
    service = "".join(part.capitalize() for part in area.split("_"))
    return f"""syntax = "proto3";

package village.{domain}.v1;

{imports}

// Keeps …
service {service}Service {{
  option (village.options.v1.reads) = {{
    allow: {{roles: [ROLE_PA, ROLE_CI, ROLE_KA, ROLE_KI, ROLE_TO, ROLE_VO, ROLE_AU] scope: SCOPE_SUBTREE}}
  }};
  option (village.options.v1.writes) = {{allow: {{roles: [ROLE_KA, ROLE_TO] scope: SCOPE_OWN_REGION}}}};
{"".join(map(methods, records))}}}
{"".join(map(resource, records))}{"".join(map(requests, records))}{"".join(map(events, records))}"""


if __name__ == "__main__":
    print(scaffold(sys.argv[1], sys.argv[2], [parse(sys.argv[1], text) for text in sys.argv[3:]]), end="")
