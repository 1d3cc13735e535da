//! The local socket side of a tube or transfer: listens or dials, and applies the access control.
