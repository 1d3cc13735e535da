//! The link-local protocol (XEP-0174): discovery, XML streams, contacts.

pub mod discovery;
