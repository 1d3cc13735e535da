//! Telepathy without D-Bus.
