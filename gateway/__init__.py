"""The edge of a node: Envoy, rendered from what the node runs, and the node's own small service."""

VERSION = "0.1.0"
