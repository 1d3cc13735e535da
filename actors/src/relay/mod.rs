//! The actor that joins one endpoint's connection to one bytestream.
