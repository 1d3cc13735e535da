//! Namespaces, each with where it is defined.

/// XML streams (RFC 6120 section 4.8).
pub const STREAM: &str = "http://etherx.jabber.org/streams";
/// Stanzas of a client stream, which link-local streams use too (RFC 6120 section 4.8.3, XEP-0174 section 5).
pub const CLIENT: &str = "jabber:client";
/// STARTTLS (RFC 6120 section 5).
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// Stanza error conditions (RFC 6120 section 8.3).
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// Service discovery (XEP-0030).
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// Stream initiation (XEP-0095).
pub const SI: &str = "http://jabber.org/protocol/si";
/// File transfer by stream initiation: its `profile`, its element, and the feature of who takes files
/// (XEP-0096).
pub const SI_FILE_TRANSFER: &str = "http://jabber.org/protocol/si/profile/file-transfer";
/// Feature negotiation (XEP-0020).
pub const FEATURE_NEG: &str = "http://jabber.org/protocol/feature-neg";
/// Data forms (XEP-0004).
pub const DATA_FORMS: &str = "jabber:x:data";
/// SOCKS5 bytestreams (XEP-0065).
pub const BYTESTREAMS: &str = "http://jabber.org/protocol/bytestreams";
/// In-band bytestreams (XEP-0047).
pub const IBB: &str = "http://jabber.org/protocol/ibb";
/// Telepathy's tubes, and the `profile` of their stream initiation (Gabble's sources).
pub const TUBES: &str = "http://telepathy.freedesktop.org/xmpp/tubes";
/// What applications say of a file beside that (Gabble's sources): the feature, and the form.
pub const FILE_METADATA: &str = "http://telepathy.freedesktop.org/xmpp/file-transfer-metadata";
/// For which service a file is (Gabble's sources).
pub const FILE_SERVICE: &str = "http://telepathy.freedesktop.org/xmpp/file-transfer-service";
/// Several stream methods at once (Gabble's sources).
pub const SI_MULTIPLE: &str = "http://telepathy.freedesktop.org/xmpp/si-multiple";
/// Our own: TLS and binding inside bytestreams, connection ids. Used only with a peer that
/// announces it inside an authenticated stream.
pub const PNEUMA: &str = "urn:x-pneuma:secured:1";
