"""The type of every id, and how new ones are made."""

from __future__ import annotations

import uuid
from typing import NewType

DomainId = NewType("DomainId", str)
ProjectId = NewType("ProjectId", str)
UserId = NewType("UserId", str)
RoleId = NewType("RoleId", str)
InstanceId = NewType("InstanceId", str)
ImageId = NewType("ImageId", str)
FlavorId = NewType("FlavorId", str)
NetworkId = NewType("NetworkId", str)
SubnetId = NewType("SubnetId", str)
PortId = NewType("PortId", str)
RouterId = NewType("RouterId", str)
GroupId = NewType("GroupId", str)
RuleId = NewType("RuleId", str)
FloatingIpId = NewType("FloatingIpId", str)
OperationId = NewType("OperationId", str)
RequestId = NewType("RequestId", str)


def new_id() -> str:
    """A random UUID with dashes: compute, network and image resources."""
    return str(uuid.uuid4())


def new_hex_id() -> str:
    """A random UUID without dashes: identity resources."""
    return uuid.uuid4().hex


def new_request_id() -> RequestId:
    return RequestId(f"req-{uuid.uuid4()}")
