"""`villagemesh serve`: one process with the services named, configured by the environment."""

import importlib

from mesh import config, runtime, telemetry


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


def serve(domains: tuple[str, ...]) -> None:
    """Serves until SIGTERM."""
    settings = config.load()
    telemetry.configure(settings.log_level)
    runtime.Process([service(domain) for domain in domains], settings).run()
