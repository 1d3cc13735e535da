//! The table of phases and inputs, one test for each cell that matters, and random walks through
//! the state with a model of everything around it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{ParameterValue, ServiceName},
    ports::Parties,
};

mod table;
mod walk;

fn target() -> Target {
    Target {
        address: SocketAddress::Unix("/run/service".into()),
        access: AccessControl::Localhost,
    }
}

fn bound() -> SocketAddress {
    SocketAddress::Unix("/run/bound".into())
}

fn parameters() -> TubeParameters {
    let values = BTreeMap::from([("u".to_owned(), ParameterValue::Uint(1))]);
    TubeParameters::new(values).unwrap()
}

fn description(requested: bool) -> StreamTubeDescription {
    StreamTubeDescription {
        parties: Parties {
            target: ContactHandle(7),
            target_id: "juliet".into(),
            initiator: ContactHandle(if requested { 1 } else { 7 }),
            initiator_id: "somebody".into(),
            requested,
        },
        service: ServiceName::new("rfb").unwrap(),
        sockets: Vec::new(),
        parameters: TubeParameters::default(),
    }
}
