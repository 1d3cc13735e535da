//! Stream tubes from outside: two connection managers, two buses, the loopback interface, and bytes.

mod bad_input;
mod closing;
mod in_band;
mod leaks;
mod opening;
mod pressure;
mod service;
mod sockets;

use support::{Person, service};

/// Two people who are online and see each other.
fn alice_and_bob() -> (Person, Person) {
    Person::alice_and_bob(service!())
}
