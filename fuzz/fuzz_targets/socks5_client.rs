//! SOCKS5, the side that dialled.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pneuma::fuzzing::socks5_client(data));
