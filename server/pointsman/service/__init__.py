"""Protobuf to values and back. The only room that knows the wire; answers come through `ports`."""
