//! Stanzas and streams as pure data and pure state: no I/O.

pub mod ns;
