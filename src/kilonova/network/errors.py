"""What can go wrong with networks, under the names that clients of the network API know."""

from __future__ import annotations

from kilonova.errors import AlreadyExists, BadRequest, Conflict, InUse, NotFound, NotSupported


class NetworkNotFound(NotFound): ...


class SubnetNotFound(NotFound): ...


class PortNotFound(NotFound): ...


class RouterNotFound(NotFound): ...


class SecurityGroupNotFound(NotFound): ...


class SecurityGroupRuleNotFound(NotFound): ...


class FloatingIPNotFound(NotFound): ...


class ExtensionNotFound(NotFound): ...


class AgentNotFound(NotFound): ...


class TagNotFound(NotFound): ...


class RouterInterfaceNotFound(NotFound): ...


class RouterInterfaceNotFoundForSubnet(NotFound): ...


class NetworkInUse(InUse): ...


class SubnetInUse(InUse): ...


class PortInUse(InUse): ...


class RouterInUse(InUse): ...


class SecurityGroupInUse(InUse): ...


class RouterInterfaceInUseByFloatingIP(InUse): ...


class RouterInterfaceInUseByRoute(InUse): ...


class RouterExternalGatewayInUseByFloatingIp(InUse): ...


class ServicePortInUse(InUse): ...


class IpAddressAlreadyAllocated(AlreadyExists): ...


class MacAddressInUse(InUse): ...


class FloatingIPPortAlreadyAssociated(InUse): ...


class VlanIdInUse(InUse): ...


class GatewayConflictWithAllocationPools(Conflict): ...


class OverlappingAllocationPools(Conflict): ...


class NoNetworkAvailable(Conflict): ...


class SecurityGroupRuleExists(Conflict): ...


class SecurityGroupDefaultAlreadyExists(Conflict): ...


class SecurityGroupCannotUpdateDefault(Conflict): ...


class SecurityGroupCannotRemoveDefault(Conflict): ...


class InvalidInput(BadRequest): ...


class InvalidAllocationPool(BadRequest): ...


class OutOfBoundsAllocationPool(BadRequest): ...


class InvalidIpForSubnet(BadRequest): ...


class AllocationOnAutoAddressSubnet(BadRequest): ...


class ExternalNetworkNotReachable(NotFound):
    """No router connects the fixed address's subnet to the external network."""


class NotSupportedYet(NotSupported):
    """The request is understood but this cloud cannot realise it so far; nothing was made."""

    status = 400
