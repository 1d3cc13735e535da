//! placeholder, replaced by the service

fn main() {}
