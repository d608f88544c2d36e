"""Wuning's habitat behind a socket and a broker, as a vendor's test node would be: what is checked, and
what the broken servers stand before."""

import json
import pathlib
import shutil

import grpc

from cli.serve import service
from conform import callers
from gateway import pulling
from mesh import config, process
from tests import county as counties
from tests.broker import Broker
from village.habitat.v1 import report_pb2

PEOPLE = ("county", "resident", "keeper", "village", "town", "inspector", "farm", "lab", "device", "province",
          "auditor", "administrator", "security", "audit")  # fmt: skip


class Served:
    """A process of habitat, its broker, and a token of each role."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.broker = Broker(folder)
        private = counties.secrets(folder)
        issuer = counties.issuer(counties.REGION)
        entry = {"issuer": issuer, "jwks": "jwks.json", "region": "360000", "highest_level": "PROVINCE"}
        (folder / "trust/issuers.json").write_text(json.dumps({"issuers": [entry]}))
        shutil.copyfile(counties.migrated("habitat"), folder / "habitat.db")
        self.address = f"unix:{folder}/s"
        settings = config.load(
            {"VILLAGEMESH_REGION": counties.REGION, "VILLAGEMESH_LISTEN": self.address,
             "VILLAGEMESH_DATABASE_URL": f"sqlite:///{folder}/{{domain}}.db",
             "VILLAGEMESH_NATS_URL": self.broker.url, "VILLAGEMESH_THREADS": "4",
             **counties.directory.files(folder)}
        )  # fmt: skip
        self.process = process.Process([service("habitat")], settings, pulls=pulling.Puller)
        self.process.start()
        now = counties.resources.utcnow()
        people = {**{who: counties.PEOPLE[who] for who in PEOPLE},
                  "sibling": {"sub": "officer-9", "roles": ["KA"], "region": "360424"}}  # fmt: skip
        self.tokens = callers.read(
            "\n".join(counties.mint(private, now, **claims) for claims in people.values())
        )

    def file(self, count: int) -> None:
        """Reports that are there before anybody looks."""
        by = next(c.token for c in self.tokens if c.roles == {"KA"} and c.region == counties.REGION)
        with grpc.insecure_channel(self.address) as channel:
            ask = channel.unary_unary("/village.habitat.v1.ReportService/FileReport")
            for n in range(count):
                report = {"category": n % 4 + 1, "description": "村口垃圾", "division": counties.VILLAGE,
                          "location": {"latitude": 29.26, "longitude": 115.1}}  # fmt: skip
                request = report_pb2.FileReportRequest(parent=f"regions/{counties.REGION}", report=report)
                metadata = [("authorization", f"Bearer {by}")]
                ask(request.SerializeToString(), metadata=metadata, timeout=10)

    def close(self) -> None:
        self.process.stop(patience=2)
        self.broker.kill()
