"""The node process's own service: what this node is and runs. Beside the gateway, because it speaks for
the whole node and no domain."""

from mesh import calls, runtime
from mesh.regions import level
from village.mesh.v1 import directory_pb2

VERSION = "0.1.0"


def get_node(_request: directory_pb2.GetNodeRequest, call: calls.Call) -> directory_pb2.Node:
    return directory_pb2.Node(
        region=call.region,
        level=level(call.region),  # type: ignore[arg-type]
        version=VERSION,
        services=[
            directory_pb2.DomainService(
                domain=condition.domain,
                ready=not condition.trouble,
                trouble=condition.trouble,
                backlog=condition.backlog,
            )
            for condition in call.services.node.conditions()
        ],
    )


SERVICE = runtime.Service(domain="mesh", package="village.mesh.v1", handlers={"GetNode": get_node})
