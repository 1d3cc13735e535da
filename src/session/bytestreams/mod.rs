//! Bytestreams: negotiated by stream initiation, carried by SOCKS5, secured by TLS and binding.
