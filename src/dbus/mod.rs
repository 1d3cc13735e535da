//! The only server-side zbus.
