"""Tubes that our service keeps on a connection that Mission Control made."""
from command_line import OFFLINE, ONLINE, address_of, pair
from home import *  # noqa: F403


@scenario
def a_command_leaves_an_account_online_that_keeps_a_tube():
    """An offer is kept; what brings the account online once more, if only to look, leaves it so for the tube."""
    alice, bob = pair()
    pneuma = public(binary("pneuma"))
    for person in (alice, bob):
        person.run(pneuma, "contacts")
    alice_id, bob_id = (person.of_account("NormalizedName") for person in (alice, bob))
    at_bob = bob.agent()
    echo = alice.agent().call(echo_server, ["tcp", "127.0.0.1", 0])

    def flows():
        """What is kept is there for Bob, who waits for it."""
        place = address_of(accepting.event("accepted"))
        assert at_bob.call(exchange, place, 100_000) == 100_000

    accepting = bob.pneuma("accept", alice_id, "x-files")
    alice.run(pneuma, "offer", "x-files", f"127.0.0.1:{echo[2]}", "--to", bob_id, "--detach", "--yes")
    flows()
    alice.run(pneuma, "disconnect")
    alice.disconnected()
    assert alice.of_account("RequestedPresence")[0] == OFFLINE
    accepting.event("closed")
    accepting.ends()

    accepting = bob.pneuma("accept", alice_id, "x-files")
    listed = json.loads(alice.run(pneuma, "--json", "contacts"))
    assert any(contact["id"] == bob_id for contact in listed), listed
    assert alice.of_account("RequestedPresence")[0] == ONLINE
    flows()
    alice.connected()
    # Once it is closed there is nothing to stay for.
    alice.run(pneuma, "disconnect")
    alice.disconnected()
    watching = alice.pneuma("contacts", "--watch")
    alice.connected()
    alice.run(pneuma, "tubes", "--close", "k1", "--yes")
    assert watching.interrupt() == 0
    alice.disconnected()
    assert alice.of_account("RequestedPresence")[0] == OFFLINE
