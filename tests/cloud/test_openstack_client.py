"""The `openstack` command, unmodified, through a life of each kind of resource."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .running import RunningCloud

pytestmark = pytest.mark.timeout(300)

User = tuple[str, str, str]


class Client:
    """The command as one user; every call asserts that it succeeds."""

    def __init__(self, cloud: RunningCloud, user: User | None = None) -> None:
        self._cloud = cloud
        self._user = user

    def __call__(self, words: str, *more: str) -> Any:
        """The JSON answer of a command that shows or lists."""
        return self._cloud.openstack_json(*words.split(), *more, as_user=self._user)

    def do(self, words: str, *more: str) -> str:
        """The plain output of any command."""
        return self._cloud.openstack(*words.split(), *more, as_user=self._user).stdout

    def refused(self, words: str, *more: str) -> str:
        done = self._cloud.openstack(*words.split(), *more, as_user=self._user, check=False)
        assert done.returncode != 0, f"openstack {words} succeeded"
        return done.stderr


@pytest.fixture(scope="module")
def admin(simulated: RunningCloud) -> Client:
    return Client(simulated)


@pytest.fixture(scope="module")
def member(simulated: RunningCloud) -> Client:
    simulated.member("client-tests")
    return Client(simulated, ("client-tests", "secret-client-tests", "client-tests"))


def names(listed: list[dict[str, Any]], column: str = "Name") -> set[str]:
    return {item[column] for item in listed}


def test_identity(admin: Client) -> None:
    assert {"identity", "compute", "network", "image"} <= names(admin("catalog list"), "Type")
    project = admin("project create --description words client-project")
    admin.do("project set --name client-project2 client-project")
    assert admin("project show client-project2")["id"] == project["id"]
    user = admin("user create --password secret --project client-project2 client-user")
    admin.do("role add --user client-user --project client-project2 member")
    assigned = admin("role assignment list --names --user client-user")
    assert [(item["Role"], item["Project"]) for item in assigned] == [("member", "client-project2@Default")]
    admin.do("user set --email a@example.org client-user")
    assert admin("user show client-user")["email"] == "a@example.org"
    assert "client-user" in names(admin("user list"))
    assert {"admin", "member", "reader"} <= names(admin("role list"))
    admin.do("role remove --user client-user --project client-project2 member")
    admin.do("user delete", user["id"])
    admin.do("project delete client-project2")
    assert "client-project2" not in names(admin("project list"))
    assert "client-project2" in admin.refused("project show client-project2")
    assert admin("domain list")[0]["Name"] == "Default"


def test_image(admin: Client, tmp_path: Path) -> None:
    content = b"kilonova" * 4096
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(content)
    made = admin("image create --disk-format raw --container-format bare --public client-image --file", str(source))
    shown = admin("image show", made["id"])
    assert (shown["status"], shown["size"]) == ("active", len(content))
    admin.do("image set --property os_distro=tiny --min-ram 64 --tag small client-image")
    shown = admin("image show client-image")
    assert shown["properties"]["os_distro"] == "tiny"
    assert shown["min_ram"] == 64
    assert "client-image" in names(admin("image list --tag small"))
    admin.do("image save client-image --file", str(copy))
    assert copy.read_bytes() == content
    admin.do("image unset --tag small client-image")
    admin.do("image delete client-image")
    assert "client-image" not in names(admin("image list"))


def test_flavor_and_quota(admin: Client, member: Client) -> None:
    admin.do("flavor create --ram 256 --vcpus 2 --disk 1 --property a:b=c client-flavor")
    assert admin("flavor show client-flavor")["ram"] == 256
    assert "client-flavor" in names(member("flavor list"))
    assert "client-flavor" in admin.do("flavor list --long")
    admin.do("flavor delete client-flavor")
    admin.do("quota set --instances 7 client-tests")
    quota = {item["Resource"]: item["Limit"] for item in admin("quota show client-tests")}
    assert quota["instances"] == 7
    assert names(member("limits show --absolute")) >= {"instances", "instances_used"}


def test_keypair(member: Client, tmp_path: Path) -> None:
    private = tmp_path / "key"
    member.do("keypair create client-key --private-key", str(private))
    assert private.read_text().startswith("-----BEGIN")
    public = member.do("keypair show --public-key client-key")
    assert public.startswith("ssh-")
    (tmp_path / "key.pub").write_text(public)
    member.do("keypair create client-key2 --public-key", str(tmp_path / "key.pub"))
    keys = {item["Name"]: item["Fingerprint"] for item in member("keypair list")}
    assert keys["client-key"] == keys["client-key2"]
    member.do("keypair delete client-key client-key2")
    assert member("keypair list") == []


def test_network(admin: Client, member: Client) -> None:
    member.do("network create client-net")
    member.do("subnet create --network client-net --subnet-range 192.168.9.0/24 --dns-nameserver 192.0.2.53 client-sub")
    member.do("router create client-router")
    member.do("router set --external-gateway public client-router")
    member.do("router add subnet client-router client-sub")
    assert member("router show client-router")["interfaces_info"][0]["ip_address"] == "192.168.9.1"
    member.do("port create --network client-net --fixed-ip subnet=client-sub,ip-address=192.168.9.77 client-port")
    assert "192.168.9.77" in str(member("port show client-port")["fixed_ips"])
    member.do("network set --name client-net2 client-net")
    assert "client-net2" in names(member("network list"))
    assert "client-sub" in names(member("subnet list"))
    assert "InUse" in member.refused("network delete client-net2") or "in use" in member.refused(
        "network delete client-net2"
    )
    address = member("floating ip create public")["floating_ip_address"]
    member.do("floating ip set --port client-port", address)
    assert member("floating ip show", address)["fixed_ip_address"] == "192.168.9.77"
    member.do("floating ip unset --port", address)
    member.do("floating ip delete", address)
    member.do("port delete client-port")
    member.do("router remove subnet client-router client-sub")
    member.do("router unset --external-gateway client-router")
    member.do("router delete client-router")
    member.do("network delete client-net2")
    assert "client-net2" not in names(member("network list"))
    assert admin("network agent list")
    assert {"router", "security-group"} <= names(admin("extension list --network"), "Alias")


def test_security_group(member: Client) -> None:
    group = member("security group create client-group")
    member.do("security group rule create --protocol tcp --dst-port 22:23 --remote-ip 192.0.2.0/24 client-group")
    member.do("security group rule create --protocol icmp --remote-group client-group client-group")
    rules = member("security group rule list --ingress client-group")
    assert len(rules) == 2
    assert {rule["Port Range"] for rule in rules} >= {"22:23"}
    again = member.refused(
        "security group rule create --protocol tcp --dst-port 22:23 --remote-ip 192.0.2.0/24 client-group"
    )
    assert "exists" in again
    member.do("security group rule delete", rules[0]["ID"])
    member.do("security group set --description words client-group")
    assert member("security group show client-group")["description"] == "words"
    member.do("security group delete", group["id"])


def test_server(simulated: RunningCloud, admin: Client, member: Client) -> None:
    image = simulated.upload_tiny("client-tiny").id
    create = f"server create --image {image} --flavor m1.nano --wait"
    made = member(f"{create} --nic auto --property a=b client-server")
    assert made["status"] == "ACTIVE"
    member(f"{create} client-server2")
    listed = member("server list --long")
    assert names(listed) == {"client-server", "client-server2"}
    assert "auto_allocated_network" in str(listed[0]["Networks"])
    for command, status in (
        ("stop", "SHUTOFF"),
        ("start", "ACTIVE"),
        ("pause", "PAUSED"),
        ("unpause", "ACTIVE"),
    ):
        member.do(f"server {command} client-server")
        _until_status(simulated, made["id"], status)
    member.do("server reboot --wait client-server")
    member.do("server reboot --hard --wait client-server")
    member.do("server set --name client-renamed --property c=d client-server")
    shown = member("server show client-renamed")
    assert shown["properties"] == {"a": "b", "c": "d"}
    member.do("server unset --property a client-renamed")
    member.do("console log show client-renamed")
    member.do("security group create client-extra")
    member.do("server add security group client-renamed client-extra")
    assert "client-extra" in str(member("server show client-renamed")["security_groups"])
    member.do("server remove security group client-renamed client-extra")
    address = member("floating ip create public")["floating_ip_address"]
    member.do("server add floating ip client-renamed", address)
    assert address in str(member("server show client-renamed")["addresses"])
    member.do("server remove floating ip client-renamed", address)
    member.do("floating ip delete", address)
    events = member("server event list client-renamed")
    assert {"create", "stop", "reboot"} <= names(events, "Action")
    member.do("server lock client-renamed")
    assert "locked" in member.refused("server delete client-renamed")
    member.do("server unlock client-renamed")
    member.do("server delete --wait client-renamed client-server2")
    assert member("server list") == []
    assert "client-renamed" not in names(admin("server list --all-projects"))
    member.do("security group delete client-extra")
    member.do("network auto allocated topology delete")


def _until_status(simulated: RunningCloud, server_id: str, status: str) -> None:
    compute = simulated.connect().compute
    compute.wait_for_server(compute.get_server(server_id), status=status, interval=0.05, wait=20)


def test_services_and_hosts(admin: Client) -> None:
    assert {"nova-compute"} <= names(admin("compute service list"), "Binary")
    hypervisors = admin("hypervisor list")
    assert len(hypervisors) == 1
    assert admin("hypervisor show", hypervisors[0]["Hypervisor Hostname"])["state"] == "up"
    assert "nova" in names(admin("availability zone list --compute"), "Zone Name")
