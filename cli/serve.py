"""`villagemesh serve`: one process with the services named, configured by the environment."""

import importlib
import json
import pathlib

from cli import processes
from deploy.local import supervisor
from gateway import published, pulling
from mesh import config, process, runtime, telemetry


def service(domain: str) -> runtime.Service:
    """The service of a domain, or the node's own."""
    module = "gateway.node" if domain == "node" else f"services.{domain}.service"
    try:
        found = importlib.import_module(module).SERVICE
    except ModuleNotFoundError as fault:
        if fault.name != module and not module.startswith(f"{fault.name}."):
            raise
        raise SystemExit(f"villagemesh: there is no service {domain!r}") from fault
    assert isinstance(found, runtime.Service)
    return found


def of_node(data: pathlib.Path) -> tuple[config.Settings, list[str]]:
    """Settings and domains that the node in a directory was last started with."""
    try:
        programs = json.loads((data / supervisor.PROGRAMS).read_text())["programs"]
    except FileNotFoundError:
        raise SystemExit(f"villagemesh: {data} holds no node that was started") from None
    (services,) = [program for program in programs if program["name"] == "services"]
    command = services["command"]
    domains = [d for d in command[command.index("serve") + 1 :] if d != published.NODE]
    return config.load(services["environment"]), domains


def serve(domains: tuple[str, ...], count: int = 1) -> None:
    """Serves until SIGTERM, by `count` processes."""
    settings = config.load()
    if settings.trust and (unnamed := {*domains} - {published.NODE, *settings.runs}):
        raise SystemExit(f"villagemesh: VILLAGEMESH_DOMAINS does not name {', '.join(sorted(unnamed))}")
    telemetry.configure(settings.log_level)
    if count > 1:
        processes.check(settings)
        processes.Processes(domains, count).run()
        return
    process.Process([service(domain) for domain in domains], settings, pulling.Puller).run()
