//! What lies behind one `Channel.Type.DBusTube` channel: how an application here is let in, and where one
//! message ends.

pub mod handshake;
pub mod splitter;
