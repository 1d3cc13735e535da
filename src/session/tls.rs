//! TLS 1.3 with both certificates, for XML streams and bytestreams alike.
