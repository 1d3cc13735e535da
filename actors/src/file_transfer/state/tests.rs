//! The table of the states, and random walks through them.

use std::path::PathBuf;

use super::*;
use crate::{
    model::{ContactHandle, FileOffer},
    ports::Parties,
};

mod table;
mod walk;

const SIZE: u64 = 100;

fn description(requested: bool, has_ranges: bool) -> FileTransferDescription {
    FileTransferDescription {
        parties: Parties {
            target: ContactHandle(7),
            target_id: "juliet@capulet".into(),
            initiator: ContactHandle(if requested { 1 } else { 7 }),
            initiator_id: "somebody".into(),
            requested,
        },
        file: FileOffer::new("monkey.pdf", Some(SIZE)).into(),
        sockets: Vec::new(),
        uri: String::new(),
        has_ranges,
    }
}

fn sending() -> State {
    State::new(&description(true, true), Way::Sending)
}

fn receiving() -> State {
    State::new(&description(false, true), Way::Receiving)
}

fn address() -> SocketAddress {
    SocketAddress::Unix(PathBuf::from("/run/file"))
}

fn at(offset: u64) -> Resume {
    Resume {
        offset,
        stored: None,
    }
}

fn provide(from: Option<u64>) -> Input {
    Input::Provide {
        kind: AddressType::Unix,
        access: AccessRule::Localhost,
        from,
    }
}

fn accept(offset: u64) -> Input {
    Input::Accept {
        kind: AddressType::Unix,
        access: AccessRule::Localhost,
        from: at(offset),
        stores: false,
    }
}

fn opened(offset: u64) -> Input {
    Input::Opened {
        offset,
        encrypted: true,
    }
}

fn bind() -> Effect {
    Effect::Bind(AddressType::Unix, AccessRule::Localhost)
}

fn said(state: FileTransferState, reason: FileTransferReason) -> Effect {
    Effect::Signal(FileTransferSignal::StateChanged(state, reason))
}

fn lost() -> Error {
    Error::ConnectionLost("it broke".into())
}
