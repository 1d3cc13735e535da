//! The command line from outside: the real program, two people with buses of their own, the
//! loopback interface, and bytes.

mod demo;
mod doctor;
mod files;
mod files_broken;
mod files_disk;
mod files_stored;
mod files_storm;
mod kept;
mod life;
mod no_bus;
mod pages;
mod people;
mod pneuma;
mod policy;
mod share;
mod share_broken;
mod stdio;
mod terminal;
mod tubes;

use support::{Person, World, service};

use crate::pneuma::Pneuma;

/// Two people at their command lines, whose connection managers run and who are offline.
struct Two {
    alice: Pneuma,
    bob: Pneuma,
}

impl Two {
    fn new() -> Self {
        let world = World::new();
        let person = |name| Pneuma::of(Person::new(&world, name, service!()));
        Two {
            alice: person("alice"),
            bob: person("bob"),
        }
    }

    /// The same, online, each seen by the other.
    fn online() -> Self {
        let two = Two::new();
        two.alice.stay_online();
        two.bob.stay_online();
        for (who, whom) in [(&two.alice, two.bob.id()), (&two.bob, two.alice.id())] {
            who.person().until("they see each other", || {
                let contacts = who.run(&["contacts", "--json"]).succeeded().json();
                let mut all = contacts.as_array().expect("a list").iter();
                let there = all.any(|one| one["id"] == *whom && one["tubes"] == true);
                there.then_some(())
            });
        }
        two
    }

    /// The same, verified by each other.
    fn verified() -> Self {
        let two = Two::online();
        let alice = two.alice.id();
        let bob = two.bob.id();
        let code = two.alice.run(&["verify", &bob]).out;
        for (who, whom) in [(&two.alice, &bob), (&two.bob, &alice)] {
            who.run(&["verify", whom, "--code", code.trim()])
                .succeeded();
        }
        two
    }
}
