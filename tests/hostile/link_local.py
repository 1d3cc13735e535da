"""A network where there is nothing but IPv6 link-local addresses, each of which takes its scope id."""
from home import *  # noqa: F403
from network import Cable


def over_the_cable(parameters):
    cable = Cable("alice", "bob")
    port = free_port()
    alice = Person("alice", cable.alice, ALICE, port, parameters)
    bob = Person("bob", cable.bob, BOB, port, parameters)
    echo = alice.agent().call(echo_server, ["tcp", "127.0.0.1", 0])
    at_bob = bob.agent()
    tube = alice.create_tube(alice.handle_of("bob"), "x-echo")
    bob.sees("alice")
    alice.offer(tube, echo)
    accepted = bob.offered("x-echo")
    door = bob.accept(accepted, IPV4)
    for _ in range(3):
        assert at_bob.call(exchange, door, 1_000_000) == 1_000_000
    # Nothing else was there to go by.
    for machine in (cable.alice, cable.bob):
        rows = run("ip", "-n", machine.namespace, "-brief", "addr").splitlines()
        assert all(address.startswith("fe80:") for row in rows if not row.startswith("lo ")
                   for address in row.split()[2:]), rows
    assert alice.property(tube, STATISTICS, "Encrypted")
    bob.close_channel(accepted)
    alice.closed(tube)


@scenario
def link_local_addresses_only_on_one_interface():
    """A tube between two machines that have no other addresses, bound to the interface they share."""
    over_the_cable({})


@scenario
def link_local_addresses_only_on_all_interfaces():
    """The same with an account that uses all interfaces, one of which leads nowhere."""
    over_the_cable({"pneuma-interface": GLib.Variant("s", "")})
