//! `Channel.Interface.Pneuma.Transfer1`, our own: what a transfer that outlives its channel takes. A
//! broken one is offered again as another channel with the same `ID`; who has stored a part of it asks
//! for the rest, and says by a hash what that part is; who sends it compares, and begins there or at the
//! beginning.

use actors::{
    file_transfer::FileTransferMessage,
    model::{Error, Result as Outcome, Resume, Sha256Digest},
    ports::FileTransferObject,
};
use zbus::{OwnedVariant, Variant, object_server::SignalEmitter};

use super::{
    error::{self, Result, answered, read},
    file_transfer::{self, accept, provide},
};
use crate::connection::ConnectionHandle;

/// The interface.
#[derive(Debug)]
pub struct Transfer {
    object: FileTransferObject,
    connection: ConnectionHandle,
}

impl Transfer {
    /// Of this channel.
    pub fn new(object: FileTransferObject, connection: ConnectionHandle) -> Self {
        Transfer { object, connection }
    }
}

/// `Asked`: 0 and nothing while nobody has asked; nothing where the receiver did not say what it has.
pub fn asked(resume: Option<&Resume>) -> (u64, String) {
    resume.map_or_else(Default::default, |resume| {
        let stored = resume.stored.map(|stored| stored.to_string());
        (resume.offset, stored.unwrap_or_default())
    })
}

/// Where a receiver wants a transfer to begin.
///
/// # Errors
/// `InvalidArgument` for what is neither empty nor a SHA-256.
fn resume(offset: u64, stored: &str) -> Outcome<Resume> {
    let stored = match stored {
        "" => None,
        digits => Some(digits.parse::<Sha256Digest>()?),
    };
    Ok(Resume { offset, stored })
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Transfer1",
    introspection_docs = false
)]
impl Transfer {
    /// The 32 hexadecimal digits by which the transfer is known again; empty where the sender gave none.
    #[zbus(property(emits_changed_signal = "const"), name = "ID")]
    fn id(&self) -> Result<String> {
        read("ID", || file_transfer::id(&self.object.description.file))
    }

    /// Whether the sender can begin elsewhere than at the beginning.
    #[zbus(property(emits_changed_signal = "const"))]
    fn has_ranges(&self) -> Result<bool> {
        read("HasRanges", || self.object.description.has_ranges)
    }

    /// Of a file that we send: where the contact wants it to begin, and the SHA-256 of what it has of
    /// it, as AcceptFrom said it there.
    #[zbus(property(emits_changed_signal = "false"))]
    fn asked(&self) -> Result<(u64, String)> {
        read("Asked", || asked(self.object.view.get().asked.as_ref()))
    }

    /// How much of the file the receiving application has stored safely, from the file's beginning.
    #[zbus(property(emits_changed_signal = "false"))]
    fn stored(&self) -> Result<u64> {
        read("Stored", || self.object.view.get().stored)
    }

    /// Whether the bytes are encrypted from one connection manager to the other. Before the first one:
    /// whether they cannot be anything else, because the contact is pinned.
    #[zbus(property(emits_changed_signal = "false"))]
    fn encrypted(&self) -> Result<bool> {
        read("Encrypted", || {
            let target = self.object.description.parties.target;
            let encrypted = self.object.view.get().encrypted;
            encrypted.unwrap_or_else(|| self.connection.is_pinned(target))
        })
    }

    /// What went wrong: the name of an error and a sentence; both empty while nothing has.
    #[zbus(property(emits_changed_signal = "false"))]
    fn error(&self) -> Result<(String, String)> {
        read("Error", || {
            let view = self.object.view.get();
            let what = view.error.as_ref();
            what.map_or_else(Default::default, |what| {
                (error::name(what).to_owned(), what.to_string())
            })
        })
    }

    /// AcceptFile, by an application that has stored the file up to `offset` already. `stored_sha256` is
    /// the hash of that part; empty where the sender need not compare. It has to report what it stores:
    /// the transfer is completed, and the sender hears so, only after ReportStored said all of the file.
    /// Its socket ends in order once all has come and is verified, and it keeps it open until then.
    #[zbus(out_args("Address"))]
    async fn accept_from(
        &self,
        address_type: u32,
        access_control: u32,
        access_control_param: OwnedVariant,
        offset: u64,
        stored_sha256: String,
    ) -> Result<Variant<'static>> {
        answered("AcceptFrom", async {
            let socket = (address_type, access_control, &*access_control_param);
            let from = resume(offset, &stored_sha256)?;
            accept(&self.connection, &self.object, socket, from, true).await
        })
        .await
    }

    /// ProvideFile, by an application that begins at `offset`: what was asked for, or 0.
    #[zbus(out_args("Address"))]
    async fn provide_from(
        &self,
        address_type: u32,
        access_control: u32,
        access_control_param: OwnedVariant,
        offset: u64,
    ) -> Result<Variant<'static>> {
        answered("ProvideFrom", async {
            let socket = (address_type, access_control, &*access_control_param);
            provide(&self.connection, &self.object, socket, Some(offset)).await
        })
        .await
    }

    /// The receiving application has stored the file safely up to here.
    async fn report_stored(&self, offset: u64) -> Result<()> {
        answered("ReportStored", async {
            if self.object.description.parties.requested {
                return Err(Error::NotAvailable(
                    "whoever receives a file says what is stored of it".into(),
                ));
            }
            self.object
                .address
                .ask(|reply| FileTransferMessage::Stored { offset, reply })
                .await?
        })
        .await
    }

    /// Of a file that we receive: whether all of it has come and is what was sent, and how long it is then.
    /// That is known when the end can be read from the socket; an end without it, or elsewhere, is that of
    /// a service that was killed.
    #[zbus(out_args("verified", "size"))]
    async fn is_verified(&self) -> Result<(bool, u64)> {
        answered("IsVerified", async {
            let ask = |reply| FileTransferMessage::IsVerified { reply };
            let size = self.object.address.ask(ask).await??;
            Ok((size.is_some(), size.unwrap_or_default()))
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn asked_defined(
        emitter: &SignalEmitter<'_>,
        offset: u64,
        stored_sha256: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn stored_changed(
        emitter: &SignalEmitter<'_>,
        offset: u64,
    ) -> zbus::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_said_as_it_was_said() {
        let digits = "0f".repeat(32);
        let wanted = resume(7, &digits).unwrap();
        assert_eq!(asked(Some(&wanted)), (7, digits));
        assert_eq!(asked(Some(&resume(7, "").unwrap())), (7, String::new()));
        assert_eq!(asked(None), (0, String::new()));
        for wrong in ["x", &"0".repeat(63), &"g".repeat(64)] {
            let refused = resume(7, wrong);
            assert!(
                matches!(refused, Err(Error::InvalidArgument(_))),
                "{wrong}: {refused:?}"
            );
        }
    }
}
