"""What `pneuma doctor` says where an Avahi daemon runs."""
from findings import comes_to_say, doctor, says
from machine import *  # noqa: F403


@scenario
def the_doctor_knows_that_a_port_is_avahi_s_alone():
    """A daemon that shares the port with nobody: nothing is wrong while it finds contacts for us, or would."""
    lan = Lan("alice", "bob")
    system = SystemBus(lan.alice, "alice", server="disallow-other-stacks=yes")
    alice = person("alice", lan.alice, ALICE, "auto", system)
    bob = person("bob", lan.bob, BOB, "built-in")
    alice.sees(bob)
    bob.sees(alice)
    assert found_by(alice) == "avahi"
    says(doctor(alice), "note", "port", "Avahi's alone")
    # The other one shares it.
    says(doctor(bob, BOB), "ok", "port", "can be shared")

    alice.on(alice.path, CONNECTION, "Disconnect")
    found = doctor(alice)
    says(found, "ok", "account", "offline")
    says(found, "note", "port", "Avahi's alone")
    # Who wants to do without the daemon cannot.
    says(doctor(alice, PNEUMA_DISCOVERY="built-in"), "wrong", "port", "5353", "user 0", "ss -ulpn")
    system.stop()
    says(doctor(alice), "ok", "port", "can be shared")
    comes_to_say(alice, "ok", "multicast", "eth0")
