"""The objects on the bus beside the specification."""
import os
import subprocess

from home import *  # noqa: F403  (the tests' own vocabulary)

REQUIRED = {
    "manager": ["org.freedesktop.Telepathy.ConnectionManager"],
    "protocol": ["org.freedesktop.Telepathy.Protocol",
                 "org.freedesktop.Telepathy.Protocol.Interface.Presence"],
    "connection": ["org.freedesktop.Telepathy.Connection", REQUESTS,
                   CONNECTION + ".Interface.Contacts", CONTACT_LIST, PRESENCE, ALIASING, CAPABILITIES],
    "channel": [CHANNEL, TUBE, STREAM_TUBE],
    "debug": [TP + "Debug"],
}


@scenario
def objects_are_what_the_specification_says():
    """check-introspection finds no difference on any object, where the checker is beside the tree."""
    checker = os.path.join(ROOT, "..", "shared", "tools", "check-introspection")
    port = free_port()
    alice, bob = Person("alice", port=port), Person("bob", port=port)
    echo = bob.agent()
    address = alice.agent().call(echo_server, ["tcp", "127.0.0.1", 0])
    requested = alice.create_tube(alice.handle_of("bob"), "x-echo")
    alice.offer(requested, address)
    incoming = bob.offered("x-echo")
    objects = [(alice, "manager", CM_PATH), (alice, "protocol", CM_PATH + "/local_xmpp"),
               (alice, "connection", alice.path), (alice, "channel", requested),
               (bob, "channel", incoming), (alice, "debug", "/org/freedesktop/Telepathy/debug")]
    for person, kind, path in objects:
        xml = person.on(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        for interface in REQUIRED[kind]:
            assert f'<interface name="{interface}">' in xml, (path, interface)
        others = REQUIRED[kind][1:]
        listed = others and person.property(path, REQUIRED[kind][0], "Interfaces")
        for interface in others:
            # A channel's type is not among its interfaces.
            assert interface in listed or interface == STREAM_TUBE, (path, interface, listed)
        if os.path.exists(checker):
            checked = subprocess.run(
                ["/usr/bin/python3", checker, CM_NAME, path, "--require", *REQUIRED[kind]],
                env=person.env(), capture_output=True, text=True)
            print(f"   {kind}: {checked.stdout.strip().splitlines()[-1:]}")
            assert checked.returncode == 0, checked.stdout + checked.stderr
    if not os.path.exists(checker):
        print("   (check-introspection is not beside this tree: only the interfaces were compared)")
    echo.close()
