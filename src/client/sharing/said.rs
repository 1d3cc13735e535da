//! What the accepting side hears from the contact: answers, signals of the service, and whether it is
//! there. Pure.

use std::num::NonZeroU32;

use zbus::{Message, message::Type};

use super::{calls::Caller, envelope::Envelope, words::BUS};

/// What a message of the contact is.
#[derive(Debug)]
pub(super) enum Said {
    /// The answer to the call that went to it under this number, if one did.
    Answer(NonZeroU32),
    /// The service is there now, or not.
    There(bool),
    /// A signal of the service.
    Signal,
    /// Nothing that it may say; with what it is answered, if it wants an answer.
    Refused(Option<Message>),
}

impl Said {
    /// Understands a message about the service called `name`.
    pub(super) fn by(message: &Message, name: &str) -> Self {
        let header = message.header();
        match message.message_type() {
            Type::MethodReturn | Type::Error => header
                .reply_serial()
                .map_or(Said::Refused(None), Said::Answer),
            Type::Signal if header.interface().is_some_and(|of| *of == BUS) => {
                let changed = header
                    .member()
                    .is_some_and(|member| *member == "NameOwnerChanged");
                let body = message.body();
                match body.deserialize::<(&str, &str, &str)>() {
                    Ok((of, _, new)) if changed && of == name => Said::There(!new.is_empty()),
                    // Of a bus over here, the contact has nothing to tell.
                    _ => Said::Refused(None),
                }
            }
            Type::Signal => Said::Signal,
            Type::MethodCall => {
                let why = ("AccessDenied", "nothing can be called here");
                Said::Refused(Caller::of(&header, ()).refuse(why, Envelope::fresh()))
            }
        }
    }
}
