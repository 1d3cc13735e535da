//! The words that all parts have in common: the bus's names and errors, and where a message goes. Pure.

use std::num::NonZeroU32;

use zbus::{
    Message,
    message::{Flags, Header},
};

use super::envelope::fresh_serial;

/// The bus's own name, and its interface.
pub const BUS: &str = "org.freedesktop.DBus";
/// The bus's own object.
pub const BUS_PATH: &str = "/org/freedesktop/DBus";
/// How the names of D-Bus's own errors begin.
pub const ERRORS: &str = "org.freedesktop.DBus.Error.";

/// What the other side hears in place of the unique name of the service's owner.
pub const SERVICE: &str = ":1.1";

/// The name of one of D-Bus's own errors behind [`ERRORS`], and why, for people.
pub type Refusal = (&'static str, &'static str);

/// Where a message goes.
#[derive(Clone, Debug)]
pub enum Out {
    /// To our own bus.
    Bus(Message),
    /// To the contact.
    Contact(Message),
}

/// Whether whoever called waits for an answer.
pub fn wants_answer(header: &Header<'_>) -> bool {
    let flags = header.primary().flags();
    !flags.contains(Flags::NO_REPLY_EXPECTED)
}

/// An error of D-Bus's own, without sender and destination.
pub fn error(answers: NonZeroU32, (name, why): (&str, &str)) -> Option<Message> {
    let question = Message::method_call("/", "Question").build(&()).ok()?;
    let name = format!("{ERRORS}{name}");
    Message::error(&question.header(), name)
        .serial(fresh_serial())
        .reply_serial(Some(answers))
        .build(&why)
        .ok()
}
